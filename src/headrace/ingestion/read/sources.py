"""What the user typed -> files: measured, recognised by their first bytes, fingerprinted."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import orjson
import xxhash

from headrace.errors import SourceError
from headrace.ingestion.read.open import SUFFIXES, compression_of, open_raw, read_head, refuse_unreadable

Format: TypeAlias = Literal["jsonl", "json", "text", "csv", "tsv", "parquet", "arrow", "tar"]

_FORMAT_OF = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".tar": "tar",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
}
_TEXTUAL = frozenset({"jsonl", "json", "text", "csv", "tsv"})
_MARKS = {  # UTF-32's little-endian mark begins with UTF-16's
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_GLOB = frozenset("*?[")
_HEAD_BYTES = 4096
# Text is at most this many times as long as its compressed form, nearly always; only balance depends on it.
_COMPRESSION_RATIO = 4
_SAMPLE_BYTES = 64 << 10
_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file to read."""

    url: str
    """Path as found, or URL."""
    nbytes: int
    """Stored bytes."""
    format: str
    compression: str
    fingerprint: str
    """32 hex digits of size and of bytes from its start, its end and 16 places between."""
    modified_ns: int = 0
    """Time of the last change, where known: guards a half-done job, does not tell files apart."""

    @property
    def text_bytes(self) -> int:
        """About how much text it holds."""
        return self.nbytes * (1 if self.compression == "none" else _COMPRESSION_RATIO)

    def to_json(self) -> dict[str, Any]:
        """As a mapping of plain values."""
        return asdict(self)


def find_sources(patterns: Iterable[str | os.PathLike[str]]) -> list[SourceFile]:
    """Files, globs, directories and URLs -> files, each once, in the order given; a glob's are sorted.

    Raises:
        SourceError: nothing matches, a file cannot be read, or it is not what its name says.
    """
    urls = dict.fromkeys(url for pattern in patterns for url in _expand(os.fspath(pattern)))
    if not urls:
        raise SourceError("no sources were given; wanted files, globs, directories or URLs")
    return [describe(url) for url in urls]


def describe(url: str) -> SourceFile:
    """Look at one file: size, compression, format, fingerprint.

    Raises:
        SourceError: it cannot be read, or is not what its name says.
    """
    try:
        url.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{url!a}: the name is not UTF-8, and cannot be written down. Rename it") from None
    raw = open_raw(url)
    try:
        nbytes = raw.seek(0, 2)
        fingerprint = _fingerprint(raw, nbytes)
        raw.seek(0)
        head = raw.read(_HEAD_BYTES) or b""
    except OSError as error:
        raise SourceError(f"{url}: {error.strerror or error}") from error
    finally:
        raw.close()
    compression = compression_of(url, head)
    if compression != "none":
        head = read_head(url, compression, _HEAD_BYTES)
        refuse_unreadable(url, head)
    named = format_of(url, head)
    if named in _TEXTUAL and (encoding := _wide_encoding(head)) is not None:
        raise SourceError(
            f"{url}: its text is {encoding}; wanted UTF-8. Convert it: iconv -f {encoding} -t UTF-8 IN > OUT"
        )
    return SourceFile(
        url=url,
        nbytes=nbytes,
        format=named,
        compression=compression,
        fingerprint=fingerprint,
        modified_ns=0 if "://" in url else Path(url).stat().st_mtime_ns,
    )


def format_of(url: str, head: bytes) -> str:
    """What a file holds: by its first (decompressed) bytes where they tell, else by its name.

    Raises:
        SourceError: an Arrow, Parquet or tar file by name that is none.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head[257:262] == b"ustar":
        return "tar"
    named = _FORMAT_OF.get(_plain_suffix(url))
    if named in ("parquet", "arrow", "tar"):
        got = head[:6].hex(" ") or "nothing"
        raise SourceError(
            f"{url}: named as {named}, but its first bytes are {got}. Damaged? Fetch it again. "
            f"Something else? Give it the name of what it is"
        )
    if named is not None:
        return named
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return _json_format(start) if start.startswith(b"{") else "text"


def _wide_encoding(head: bytes) -> str | None:
    """Which encoding of 2 or 4 bytes a character a text starts in: by its mark, or by zeros in every second byte."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    half = max(len(head) // 2, 1)
    zeros = [head[i::2].count(0) / half for i in (0, 1)]
    if len(head) >= 4 and max(zeros) > 0.4 and min(zeros) < 0.1:
        return "UTF-16BE" if zeros[0] > zeros[1] else "UTF-16LE"
    return None


def _json_format(start: bytes) -> str:
    """Objects on a line each, or over several lines?"""
    line, newline, _ = start.partition(b"\n")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return "json" if newline else "jsonl"
    return "jsonl"


def _plain_suffix(url: str) -> str:
    path = PurePosixPath(url.partition("?")[0] if "://" in url else url)
    if path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return ".tar" if path.suffix.lower() == ".tgz" else path.suffix.lower()


def _fingerprint(raw: Any, nbytes: int) -> str:
    digest = xxhash.xxh3_128(nbytes.to_bytes(8, "little"))
    last = max(nbytes - _SAMPLE_BYTES, 0)
    for i in range(_SAMPLES + 1):
        raw.seek(last * i // _SAMPLES)
        digest.update(raw.read(_SAMPLE_BYTES if i in (0, _SAMPLES) else 4096) or b"")
    return digest.hexdigest()


def _expand(pattern: str) -> Sequence[str]:
    if pattern.startswith("file://"):
        pattern = unquote(urlsplit(pattern).path)
    if "://" in pattern:
        return _expand_url(pattern)
    path = Path(pattern)
    if path.is_dir():
        return _directory(path)
    if path.exists():
        return [pattern]
    if _GLOB & set(pattern):
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - keeps the pattern's own spelling
        found = sorted(file for file in matches if Path(file).is_file())
        if found:
            return found
        raise SourceError(f"{pattern}: no file matches")
    raise SourceError(f"{pattern}: no such file or directory")


def _directory(path: Path) -> list[str]:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _datasets_directory(path)
    return _known(str(path), sorted(_walk(path)), is_hidden=lambda url: _hidden(url, str(path)))


def _walk(path: Path) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: {error.strerror}") from error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            yield str(Path(folder) / name)


def _hidden(url: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(url).relative_to(root).parts)


def _known(place: str, urls: Sequence[str], *, is_hidden: Callable[[str], bool]) -> list[str]:
    """Files whose names say that they hold text."""
    found = [url for url in urls if _plain_suffix(url) in (*_FORMAT_OF, ".tar") and not is_hidden(url)]
    if not found:
        known = " ".join(_FORMAT_OF)
        raise SourceError(
            f"{place}: none of its {len(urls)} files has a name that ends in {known} "
            f"(or that and {' '.join(SUFFIXES)}). Name the files themselves"
        )
    return found


def _datasets_directory(path: Path) -> list[str]:
    """Files of what `datasets.save_to_disk` wrote: one dataset, or all splits of a dictionary in its order."""
    splits = [path]
    if (path / "dataset_dict.json").is_file():
        names = orjson.loads((path / "dataset_dict.json").read_bytes())["splits"]
        splits = [path / name for name in names]
    files: list[str] = []
    for split in splits:
        try:
            state = orjson.loads((split / "state.json").read_bytes())
            files += [str(split / entry["filename"]) for entry in state["_data_files"]]
        except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
            raise SourceError(
                f"{split}: a Hugging Face dataset without a readable state.json: {error!r}"
            ) from error
    if not files:
        raise SourceError(f"{path}: a Hugging Face dataset without data files")
    return files


def _expand_url(pattern: str) -> Sequence[str]:
    from headrace.ingestion.read.remote import expand_url

    found = expand_url(pattern)
    if not found:
        raise SourceError(f"{pattern}: nothing matches")
    if found == [pattern] or _GLOB & set(pattern):
        return found
    return _known(pattern, found, is_hidden=lambda url: PurePosixPath(url).name.startswith((".", "_")))
