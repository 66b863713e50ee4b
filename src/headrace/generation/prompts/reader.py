"""A file of prompts (.txt, .jsonl, .csv, .parquet, plain or compressed), or a list -> prompts, one by one.

Every reading gives the same prompts in the same order with the same ids: a job that resumes finds its place by id
alone. A row that is not a valid prompt becomes a prompt with an error.
"""

from __future__ import annotations

import bz2
import csv
import io
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import orjson
import xxhash

from headrace.errors import ConfigError, DocumentError, SourceError
from headrace.generation.prompts.batch_lines import prompt_of_batch_line
from headrace.generation.prompts.duplicate_ids import DuplicateIds, hash_of
from headrace.generation.prompts.prompt import Prompt
from headrace.paths import local_path
from headrace.storage import arrow_errors, refuse_encrypted

PromptSource: TypeAlias = "str | os.PathLike[str] | Sequence[str | Mapping[str, Any] | Prompt]"

ID_FIELDS = ("id", "prompt_id", "custom_id")
TEXT_FIELDS = ("prompt", "text")
IDS_FIELDS = ("prompt_token_ids", "token_ids")
CONTENT_FIELDS = (*TEXT_FIELDS, *IDS_FIELDS, "messages")
FORMATS = (".txt", ".jsonl", ".ndjson", ".csv", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSIONS = (".gz", ".zst", ".lz4", ".bz2", ".xz")
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSurvey:
    """Result of one pass over the prompts, before any work is spent on them."""

    num_prompts: int
    digest: str
    """32 hex digits over ids and contents, in order; equal for equal prompts in another file format."""


def read_prompts(source: PromptSource) -> Iterator[Prompt]:
    """Prompts in order, one in memory at a time.

    Ids are those given (columns id, prompt_id or custom_id), else the number of the line or row,
    from 0, with nine digits. The text is in `prompt` or `text`, token ids are in `prompt_token_ids` or `token_ids`, a
    conversation is in `messages`; a list of ids or of messages may be in `prompt` as well.

    Args:
        source: path of a file, or a sequence of texts, mappings or prompts.

    Raises:
        SourceError: the file is missing, truncated, or not what its name says.
        ConfigError: the name has no known suffix.
    """
    if not isinstance(source, (str, os.PathLike)):
        for number, item in enumerate(source):
            yield _from_item(number, item)
        return
    path = local_path(source, name="prompts", cure="Copy the file to a local path.")
    kind = _kind_of(path)
    with _opened(path) as file:
        try:
            if kind == ".txt":
                yield from _from_lines(file)
            elif kind == ".csv":
                yield from _from_csv(path, file)
            elif kind == ".parquet":
                yield from _from_parquet(path, file)
            else:
                yield from _from_jsonl(file)
        except BROKEN as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"{path}: cannot be read to its end as {''.join(path.suffixes[-2:])} ({error}). "
                f"Truncated, or not what its name says?"
            ) from error


def survey_prompts(source: PromptSource) -> PromptSurvey:
    """Read all prompts once: count them, and refuse ids that are given twice.

    Memory does not grow with their number; 8 bytes each go to a temporary file.

    Raises:
        ConfigError: two prompts have the same id, or there is no prompt.
    """
    digest = xxhash.xxh3_128()
    count = 0
    with DuplicateIds() as duplicates:
        for prompt in read_prompts(source):
            duplicates.add(prompt.prompt_id)
            count += 1
            content = [
                prompt.prompt_id, prompt.text, prompt.token_ids, dict(prompt.sampling), prompt.num_samples,
            ]  # fmt: skip
            if prompt.messages is not None:
                content.append(prompt.messages)
            digest.update(repr(content).encode("utf-8", "surrogatepass"))
        if count == 0:
            where = f"{source}" if isinstance(source, (str, os.PathLike)) else "the list"
            raise ConfigError(f"prompts: {where} holds no prompt.")
        _refuse_duplicates(source, duplicates.hashes())
    return PromptSurvey(num_prompts=count, digest=digest.hexdigest())


def _refuse_duplicates(source: PromptSource, suspects: set[int]) -> None:
    """Read the prompts again to compare the ids whose hashes are equal: different ids may have equal hashes."""
    if not suspects:
        return
    first: dict[str, int] = {}
    for number, prompt in enumerate(read_prompts(source)):
        if hash_of(prompt.prompt_id) in suspects:
            before = first.setdefault(prompt.prompt_id, number)
            if before != number:
                raise ConfigError(
                    f"prompts: id {prompt.prompt_id!r} of row {number} is the id of row {before} as well. "
                    f"Predictions are stored by id: give each prompt its own, or none."
                )


def _kind_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise ConfigError(
            f"{path}: prompts are read from {', '.join(FORMATS)}, plain or with {', '.join(COMPRESSIONS)}."
        )
    return suffixes[-1]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        raw = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}.") from error
    with raw:
        suffix = path.suffix.lower()
        if suffix in COMPRESSIONS:
            yield cast("IO[bytes]", io.BufferedReader(_unpacked(raw, suffix), 1 << 20))
        else:
            yield raw


def _unpacked(raw: IO[bytes], suffix: str) -> Any:
    if suffix == ".gz":
        from isal import igzip

        return igzip.IGzipFile(fileobj=raw)  # type: ignore[no-untyped-call]  # isal has no types here
    if suffix == ".zst":
        import pyarrow as pa

        # zstandard's own reader ends a truncated file without an error.
        return pa.CompressedInputStream(raw, "zstd")
    if suffix == ".lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameFile(raw)
    return bz2.BZ2File(raw) if suffix == ".bz2" else lzma.LZMAFile(raw)


def _from_lines(file: IO[bytes]) -> Iterator[Prompt]:
    for number, line in enumerate(file):
        data = line.rstrip(b"\r\n")
        if number == 0:
            data = data.removeprefix(BYTE_ORDER_MARK)
        if data.strip():
            yield _from_bytes(number, data)


def _from_bytes(number: int, data: bytes) -> Prompt:
    try:
        return Prompt(prompt_id=f"{number:09d}", text=data.decode())
    except UnicodeDecodeError as error:
        return _bad(
            number, f"line {number + 1}: byte {error.start} is not UTF-8", data.decode(errors="replace")
        )


def _from_jsonl(file: IO[bytes]) -> Iterator[Prompt]:
    for number, line in enumerate(file):
        if number == 0:
            line = line.removeprefix(BYTE_ORDER_MARK)  # noqa: PLW2901
        if not line.strip():
            continue
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield _bad(
                number, f"line {number + 1}: not JSON ({error})", line.decode(errors="replace").strip()
            )
            continue
        yield _from_item(number, item)


def _from_csv(path: Path, file: IO[bytes]) -> Iterator[Prompt]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        rows = csv.DictReader(text)
        _require_text(path, rows.fieldnames or ())
        for number, row in enumerate(rows):
            row.pop(None, None)  # cells after the last column have no name
            yield _from_item(number, row)
    finally:
        text.detach()  # the caller closes the file


def _from_parquet(path: Path, file: IO[bytes]) -> Iterator[Prompt]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end: a compressed file has to be decompressed as a whole.
    source = file if path.suffix.lower() not in COMPRESSIONS else pa.BufferReader(file.read())
    cure = "Truncated, or not what its name says?"
    with arrow_errors(f"{path}: cannot be read to its end as .parquet", error=SourceError, cure=cure):
        refuse_encrypted(source, str(path))
        table = pq.ParquetFile(source)
        known = {*ID_FIELDS, *CONTENT_FIELDS}
        columns = [name for name in table.schema_arrow.names if name in known]
        _require_text(path, table.schema_arrow.names)
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            batch.validate(full=True)  # offsets of a damaged file must not be followed
            for row in batch.to_pylist():
                yield _from_item(number, row)
                number += 1


def _require_text(path: Path, columns: Iterable[str]) -> None:
    if not {*CONTENT_FIELDS} & {*columns}:
        raise SourceError(
            f"{path}: columns {', '.join(columns) or 'none'}; a prompt is in one of "
            f"{', '.join(CONTENT_FIELDS)}."
        )


def _from_item(number: int, item: object) -> Prompt:
    if isinstance(item, Prompt):
        return item
    if isinstance(item, str):
        return _checked(number, f"{number:09d}", item)
    if not isinstance(item, Mapping):
        return _bad(
            number,
            f"row {number + 1}: a JSON {type(item).__name__}; expected an object or a string",
            str(item),
        )
    # An empty cell of a CSV file is no id.
    prompt_id = next((item[name] for name in ID_FIELDS if item.get(name) not in (None, "")), f"{number:09d}")
    if isinstance(item.get("body"), Mapping):
        return prompt_of_batch_line(str(prompt_id), item)
    name = next((name for name in CONTENT_FIELDS if item.get(name) is not None), None)
    if name is None:
        return _bad(number, f"row {number + 1}: no field {' or '.join(CONTENT_FIELDS)}", "", str(prompt_id))
    return _checked(number, str(prompt_id), item[name])


def _checked(number: int, prompt_id: str, value: object) -> Prompt:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            # The csv reader gives bytes that it cannot decode as lone surrogates.
            shown = value.encode("utf-8", "surrogatepass").decode(errors="replace")
            message = f"row {number + 1}: character {error.start} is not UTF-8"
            return _bad(number, message, shown, prompt_id)
        return Prompt(prompt_id=prompt_id, text=value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Mapping) for one in value):
        return Prompt(prompt_id=prompt_id, messages=tuple(value))
    if isinstance(value, (list, tuple)) and all(
        isinstance(i, int) and not isinstance(i, bool) for i in value
    ):
        return Prompt(prompt_id=prompt_id, token_ids=tuple(value))
    return _bad(
        number,
        f"row {number + 1}: the prompt is a {type(value).__name__}; expected text, a list of token ids, or messages",
        str(value),
        prompt_id,
    )


def _bad(number: int, message: str, shown: str, prompt_id: str | None = None) -> Prompt:
    return Prompt(
        prompt_id=prompt_id or f"{number:09d}",
        text=shown,
        error={"type": DocumentError.__name__, "message": message},
    )
