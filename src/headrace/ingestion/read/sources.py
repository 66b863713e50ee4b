"""What the user typed -> files: measured, recognised by their first bytes, fingerprinted."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import xxhash

from headrace.errors import SourceError
from headrace.ingestion.read.members import member_begins
from headrace.ingestion.read.open import SUFFIXES, compression_of, open_raw, read_head, refuse_unreadable
from headrace.paths import given_path

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
    ".warc": "warc",
    ".wet": "warc",
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
_OBJECT = re.compile(rb"\{\s*[\"}]")
WARC = b"WARC/"
"""A web archive's first bytes."""
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
    """32 hex digits of its size and of 17 samples of its bytes. Two files with different samples differ; two with
    equal samples may differ."""
    modified_ns: int = 0
    """Time of the last change of its content (mtime), where known."""
    changed_ns: int = 0
    """Time of the last change of content or attributes (ctime), where known: programs cannot set it."""
    content: str | None = None
    """Hash of all its bytes, where they were read; see `content_hash`."""

    @property
    def text_bytes(self) -> int:
        """About how much text it holds."""
        return self.nbytes * (1 if self.compression == "none" else _COMPRESSION_RATIO)

    def to_json(self) -> dict[str, Any]:
        """As a mapping of plain values."""
        return asdict(self)


def find_sources(
    patterns: Iterable[str | os.PathLike[str]],
    *,
    format: str = "auto",
    notes: list[str] | None = None,
    skip_damaged: bool = False,
) -> list[SourceFile]:
    """Files, globs, directories and URLs -> files, each once, in the order given; a glob's are sorted.

    A file that is named twice, by two paths or by a symbolic link, is taken once.

    Args:
        patterns: what the user typed.
        format: what all files hold; auto recognises each one.
        notes: takes a sentence on what was left out, and why.
        skip_damaged: leave out files that cannot be opened, with a note.

    Raises:
        SourceError: nothing matches, a file cannot be read, or it is not what its name says.
    """
    notes = [] if notes is None else notes
    urls = list(
        dict.fromkeys(
            url
            for pattern in patterns
            for url in _expand(given_path(pattern, name="ingest: a source"), format, notes)
        )
    )
    if not urls:
        raise SourceError("no sources were given; expected files, globs, directories or URLs")
    files: list[SourceFile] = []
    for url in _without_aliases(urls, notes):
        try:
            files.append(describe(url, format=format))
        except SourceError as error:
            if not skip_damaged:
                raise
            notes.append(f"left out as damaged: {error}")
    if not files:
        raise SourceError(f"no source can be read: {notes[-1]}")
    return files


def _without_aliases(urls: Sequence[str], notes: list[str]) -> list[str]:
    """Each file once: a symbolic link to a file that is a source as well is left out."""
    kept: dict[str, str] = {}
    aliases: list[str] = []
    for url in urls:
        real = url if "://" in url else os.path.realpath(url)
        if real in kept:
            aliases.append(f"{url} is {kept[real]}")
        else:
            kept[real] = url
    if aliases:
        more = f", and {len(aliases) - 1} more" if len(aliases) > 1 else ""
        notes.append(f"files named twice, or by a link, were taken once: {aliases[0]}{more}")
    return list(kept.values())


def describe(url: str, *, format: str = "auto") -> SourceFile:
    """Look at one file: size, compression, format, fingerprint.

    Args:
        url: path or URL.
        format: what it holds; auto recognises it.

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
        # The reader of web archives passes over a damaged member, also the first one.
        is_archive = compression == "gzip" and member_begins(head, WARC)
        head = WARC if is_archive else read_head(url, compression, _HEAD_BYTES)
        refuse_unreadable(url, head)
    named = format_of(url, head) if format == "auto" else format
    if named in _TEXTUAL and (encoding := _wide_encoding(head)) is not None:
        raise SourceError(
            f"{url}: its text is {encoding}; expected UTF-8. Convert it: iconv -f {encoding} -t UTF-8 IN > OUT"
        )
    status = None if "://" in url else stat_source(url)
    return SourceFile(
        url=url,
        nbytes=nbytes,
        format=named,
        compression=compression,
        fingerprint=fingerprint,
        modified_ns=0 if status is None else status.st_mtime_ns,
        changed_ns=0 if status is None else status.st_ctime_ns,
    )


def stat_source(url: str) -> os.stat_result:
    """Size and times of a local file.

    Raises:
        SourceError: it is gone.
    """
    try:
        return os.stat(url)  # noqa: PTH116 - url is a path as it was typed
    except OSError as error:
        raise SourceError(f"{url}: {error.strerror or error}") from error


def format_of(url: str, head: bytes) -> str:
    """What a file holds: by its first (decompressed) bytes where they tell, else by its name.

    Raises:
        SourceError: an Arrow, Parquet, tar or WARC file by name that is none.
    """
    if head.startswith((b"PAR1", b"PARE")):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(WARC):
        return "warc"
    named = _FORMAT_OF.get(_plain_suffix(url))
    if named in ("parquet", "arrow", "tar", "warc"):
        got = head[:6].hex(" ") or "nothing"
        raise SourceError(
            f"{url}: named as {named}, but its first bytes are {got}. Damaged? Fetch it again. "
            f"Something else? Give it the name of what it is"
        )
    if named is not None:
        return named
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return _json_format(start) if _OBJECT.match(start) else "text"


def has_pages(source: SourceFile) -> bool:
    """Is it a web archive that may hold pages, not texts alone?"""
    return source.format == "warc" and _plain_suffix(source.url) != ".wet"


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


def _expand(pattern: str, format: str, notes: list[str]) -> Sequence[str]:
    if pattern.startswith("file://"):
        pattern = unquote(urlsplit(pattern).path)
    if "://" in pattern:
        return _expand_url(pattern, format, notes)
    path = Path(pattern)
    if path.is_dir():
        return _directory(path, format, notes)
    if path.exists():
        return [pattern]
    if _GLOB & set(pattern):
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - keeps the pattern's own spelling
        found = sorted(file for file in matches if Path(file).is_file())
        if found:
            return found
        raise SourceError(f"{pattern}: no file matches")
    raise SourceError(f"{pattern}: no such file or directory")


def _directory(path: Path, format: str, notes: list[str]) -> list[str]:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _datasets_directory(path)
    urls = sorted(_walk(path))
    return _known(str(path), urls, format, notes, is_hidden=lambda url: _hidden(url, str(path)))


def _walk(path: Path) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: {error.strerror}") from error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            yield str(Path(folder) / name)


def _hidden(url: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(url).relative_to(root).parts)


def _known(
    place: str,
    urls: Sequence[str],
    format: str,
    notes: list[str],
    *,
    is_hidden: Callable[[str], bool],
) -> list[str]:
    """Files of a directory that are not hidden and whose names say that they hold text; a note on the others.

    With a format, the names of the files say nothing.
    """
    hidden = [url for url in urls if is_hidden(url)]
    shown = [url for url in urls if not is_hidden(url)]
    known = [url for url in shown if format != "auto" or _plain_suffix(url) in (*_FORMAT_OF, ".tar")]
    if not known:
        raise SourceError(
            f"{place}: none of its {len(urls)} files has a name that ends in {' '.join(_FORMAT_OF)} "
            f"(or that and {' '.join(SUFFIXES)}). Name the files themselves, or give their --format"
        )
    unknown = sorted(set(shown) - set(known))
    for left_out, why in (
        (hidden, "hidden (a name that begins with . or _)"),
        (unknown, "of unknown format by name"),
    ):
        if left_out:
            names = ", ".join(PurePosixPath(url).name for url in left_out[:3])
            more = ", ..." if len(left_out) > 3 else ""
            notes.append(
                f"{place}: {len(left_out)} files were left out, {why}: {names}{more}. "
                "Name them, or a glob, to take them"
            )
    return known


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


def _expand_url(pattern: str, format: str, notes: list[str]) -> Sequence[str]:
    from headrace.ingestion.read.remote import expand_url

    found = expand_url(pattern)
    if not found:
        raise SourceError(f"{pattern}: nothing matches")
    if found == [pattern] or _GLOB & set(pattern):
        return found
    return _known(
        pattern,
        found,
        format,
        notes,
        is_hidden=lambda url: PurePosixPath(url).name.startswith((".", "_")),
    )
