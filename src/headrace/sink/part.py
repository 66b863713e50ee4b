"""Payloads of finished rows <-> the bytes of one file, checked against its commit when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import google_crc32c
import pyarrow as pa
from zstandard import ZstdError

from headrace.errors import ConfigError, SinkError
from headrace.sink import jsonl, parquet
from headrace.sink.schema import BATCH_ROWS, to_batches
from headrace.storage import disk_errors, validate_arrow

FORMATS = {"parquet": parquet, "jsonl": jsonl}
CRC_BYTES = 1 << 18
SUFFIXES = {module.SUFFIX: module for module in FORMATS.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPart:
    """A file that is not written yet."""

    data: memoryview
    rows: int
    errors: int
    tokens: int
    """Generated tokens in the file."""
    crc32c: int
    """Of the file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file that a commit names."""

    name: str
    rows: int
    nbytes: int
    crc32c: int
    first_id: str = ""
    """The smallest prompt id in it, or a smaller one."""
    read: Callable[[], bytes | pa.Buffer] = field(repr=False)
    """Returns its bytes, mapped where possible. Raises: FileNotFoundError."""
    superseded: frozenset[tuple[str, int]] = frozenset()
    """Keys of error rows in it that later parts replaced."""


def check_limits(format: str, *, part_rows: int, part_bytes: int) -> None:
    """Validate the options of a part.

    Raises:
        ConfigError: no such format, or a limit below 1.
    """
    if format not in FORMATS:
        raise ConfigError(f"sink: no format named {format!r}; there are {', '.join(FORMATS)}.")
    if part_rows < 1 or part_bytes < 1:
        raise ConfigError(f"sink: part_rows {part_rows} and part_bytes {part_bytes} must be at least 1.")


def encode_part(payloads: Sequence[bytes], *, format: str) -> NewPart:
    """Encode a part in memory; its size is bounded, so that it can be written as a whole.

    Args:
        payloads: in the order of their keys.
        format: a name out of FORMATS.
    """
    errors = tokens = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal errors, tokens
        for batch in to_batches(payloads):
            errors += batch.num_rows - batch.column("error").null_count
            tokens += sum(batch.column("completion_tokens").to_pylist())
            yield batch

    data = memoryview(FORMATS[format].encode(counted()))
    return NewPart(data=data, rows=len(payloads), errors=errors, tokens=tokens, crc32c=crc32c_of(data))


def decode_part(part: Part, *, columns: list[str], batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Rows of a part, without those that were replaced.

    Args:
        part: named by a commit.
        columns: to read; the key's columns among them.
        batch_rows: at most, of a batch.

    Raises:
        SinkError: missing, or not the bytes that were committed.
    """
    suffix = next(suffix for suffix in SUFFIXES if part.name.endswith(suffix))
    for batch in _checked(SUFFIXES[suffix].decode(_verified(part), columns=columns, rows=batch_rows), part):
        if not part.superseded:
            yield batch
            continue
        keys = zip(
            batch.column("prompt_id").to_pylist(), batch.column("sample_index").to_pylist(), strict=True
        )
        yield batch.filter(pa.array([key not in part.superseded for key in keys]))


def _checked(batches: Iterator[pa.RecordBatch], part: Part) -> Iterator[pa.RecordBatch]:
    """The batches, their offsets validated; whatever the decoder raises becomes an error that names the part."""
    try:
        for batch in batches:
            yield validate_arrow(batch, where=part.name, error=SinkError)
    except (pa.ArrowException, ZstdError, ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        raise SinkError(f"{part.name}: cannot be decoded ({error}). Restore the file from a copy.") from error


def _verified(part: Part) -> bytes | pa.Buffer:
    try:
        with disk_errors(part.name, missing=True):
            data = part.read()
    except FileNotFoundError as error:
        raise SinkError(
            f"{part.name}: a committed part is missing; its {part.rows} rows are lost."
        ) from error
    got = crc32c_of(memoryview(data))
    if len(data) != part.nbytes or got != part.crc32c:
        raise SinkError(
            f"{part.name}: {len(data)} bytes with crc32c 0x{got:08x}, "
            f"committed were {part.nbytes} bytes with 0x{part.crc32c:08x}. Restore the file from a copy."
        )
    return data


def crc32c_of(data: memoryview) -> int:
    """Of a buffer, which is copied a piece at a time: the library takes bytes only."""
    crc = 0
    for start in range(0, len(data), CRC_BYTES):
        crc = google_crc32c.extend(crc, bytes(data[start : start + CRC_BYTES]))
    return int(crc)
