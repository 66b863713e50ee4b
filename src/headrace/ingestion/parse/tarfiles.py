"""A tar -> texts: WebDataset's samples (members that share a name up to the first dot), and lines of .jsonl members.

A sample's text is its member `.{text_field}`, else `.txt`, else the text field of its `.json`. A sample, or a member
of JSON lines, belongs to the range of bytes in which its first header is.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import orjson

from headrace.errors import SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import as_metadata, lookup, too_long, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.json_text import text_of_json
from headrace.ingestion.parse.jsonl import JsonLines
from headrace.ingestion.parse.tar_headers import last_member_before
from headrace.ingestion.read.cuts import Lines
from headrace.ingestion.read.open import SUFFIXES, Stream, compression_of
from headrace.ingestion.read.records import Records
from headrace.ingestion.records import Fault, RecordRenderer
from headrace.stats import Stats

BATCH_BYTES = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Members that share a name."""

    offset: int
    """Of the first one's header."""
    key: str
    members: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _LinesMember:
    """A member whose documents are its lines."""

    offset: int
    batches: Iterator[Parsed]
    """To be read before the next member is."""


class TarSamples:
    """Samples and lines of a tar; a reader that goes forward keeps its place."""

    def __init__(self, url: str, compression: str, fields: FieldOptions) -> None:
        self._url = url
        self._fields = fields
        self._renderer = RecordRenderer(fields)
        self.stats = Stats()
        self._compression = compression
        self._stream: Stream | None = None
        self._items: Iterator[_Sample | _LinesMember] | None = None
        self._ahead: _Sample | _LinesMember | None = None
        self._read_to = 0.0
        """Everything that begins before this byte was passed."""
        self._extensions = {fields.text_field, "txt", "json", *fields.keep}

    @property
    def at_end(self) -> bool:
        """Was the last sample read?"""
        return self._stream is not None and self._ahead is None

    def stored_position(self) -> int:
        """Stored bytes read so far."""
        return 0 if self._stream is None else self._stream.stored_position()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Parsed]:
        """Texts of the samples that start in [start, stop)."""
        if self._stream is None or start < self._read_to:
            self._reopen(start)
        self._read_to = math.inf if stop is None else stop
        parsed, size = self._empty(), 0
        while self._ahead is not None and (stop is None or self._ahead.offset < stop):
            item = self._ahead
            if item.offset < start:
                pass
            elif isinstance(item, _LinesMember):
                yield parsed
                parsed, size = self._empty(), 0
                yield from item.batches
            else:
                size += self._add(parsed, item.offset, item.key, item.members)
                if size >= BATCH_BYTES:
                    yield parsed
                    parsed, size = self._empty(), 0
            self._advance()
        yield parsed

    def _empty(self) -> Parsed:
        return Parsed(texts=[], meta={name: [] for name in self._fields.keep})

    def _reopen(self, start: int) -> None:
        self.close()
        is_local = self._compression == "none" and "://" not in self._url
        origin = last_member_before(self._url, start) if is_local else 0
        self._stream = Stream(self._url, self._compression, start=origin)
        self._items = self._walk(self._stream, origin)
        self._advance()

    def _advance(self) -> None:
        assert self._items is not None
        with self.stats.busy("read"):
            self._ahead = next(self._items, None)

    def _walk(self, stream: Stream, origin: int) -> Iterator[_Sample | _LinesMember]:
        current: _Sample | None = None
        try:
            readable = _Readable(stream)
            with tarfile.open(fileobj=readable, mode="r|") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.rpartition("/")
                    if _is_system_file(base):
                        continue
                    stem, _, extension = base.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    if extension not in self._extensions and is_lines(base):
                        if current is not None:
                            yield current
                            current = None
                        yield _LinesMember(offset=origin + member.offset, batches=self._lines(tar, member))
                        continue
                    if current is None or current.key != key:
                        if current is not None:
                            yield current
                        current = _Sample(offset=origin + member.offset, key=key, members={})
                    if extension in current.members:
                        raise SourceError(
                            f"{self._url}: the sample {key!r} has two members .{extension}: its files do not lie side "
                            f"by side, or it was packed twice. Pack the tar anew"
                        )
                    if extension in self._extensions:
                        current.members[extension] = self._content(tar, member)
            self._check_end(readable)
        except tarfile.TarError as error:
            raise self._damaged(error) from error
        if current is not None:
            yield current

    def _damaged(self, error: tarfile.TarError) -> SourceError:
        return SourceError(f"{self._url}: damaged tar: {error}. Fetch it again")

    def _lines(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Parsed]:
        """Documents of a member of JSON lines, plain or compressed; its rejects name the member and its line."""
        file: Any = tar.extractfile(member)
        name = f"{self._url}: {member.name}"
        try:
            compression = compression_of(name, file.peek(64)[:64])
            stream = Stream(name, compression, raw=file)
            records = Records(
                lambda _: stream,
                Lines(),
                url=name,
                seekable=False,
                max_record_bytes=self._fields.max_record_bytes,
                expected_bytes=member.size if compression == "none" else None,
            )
            parser = JsonLines(self._url, self._fields)
            lines = 0
            for block in records.read():
                with self.stats.busy("parse", nbytes=len(block.data)):
                    parsed = parser.parse(block, lines_before=lines)
                lines += parsed.lines
                parsed.lines = 0  # of a member, not of the file
                parsed.rejects = [
                    replace(
                        reject,
                        offset=member.offset,
                        line=None,
                        detail=f"{member.name}, line {reject.line}: {reject.detail}",
                    )
                    for reject in parsed.rejects
                ]
                yield parsed
        except tarfile.TarError as error:
            raise self._damaged(error) from error

    def _check_end(self, readable: _Readable) -> None:
        """Refuse what tarfile takes for an end: a file that is cut between members, or goes on behind its end."""
        if not readable.ends_in_zeros:
            raise SourceError(
                f"{self._url}: truncated: the tar ends without the zeros that close it. Fetch it again"
            )
        while data := readable.read(1 << 20):
            if data.strip(b"\0"):
                raise SourceError(
                    f"{self._url}: something stands behind the tar's end. Several tars put together? "
                    f"Give them as files of their own"
                )

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = tar.extractfile(member)
        assert file is not None
        # One byte more than is allowed: enough to see that it is too much.
        return file.read(self._fields.max_record_bytes + 1)

    def _add(self, parsed: Parsed, offset: int, key: str, members: dict[str, bytes]) -> int:
        record: Any = None
        marks = None
        reads_text = self._fields.record in ("auto", "text")
        if reads_text and self._fields.text_field in members:
            text = members[self._fields.text_field]
        elif reads_text and "txt" in members:
            text = members["txt"]
        elif "json" in members:
            got = text_of_json(members["json"], self._fields, self._renderer)
            if isinstance(got, Fault):
                self._reject(parsed, offset, key, got.reason, got.detail)
                return 0
            record, text, marks = got
        else:
            names = f".{self._fields.text_field}, .txt or .json"
            self._reject(parsed, offset, key, "no_text", f"no member {names} in this sample")
            return 0
        fault = utf8_fault(text)
        if len(text) > self._fields.max_document_bytes:
            self._reject(parsed, offset, key, "too_long", too_long(len(text), self._fields))
        elif fault is not None:
            detail = f"invalid UTF-8: byte 0x{text[fault]:02x} at byte {fault} of the text"
            self._reject(parsed, offset, key, "invalid_utf8", detail)
        elif not text:
            parsed.empty += 1
        else:
            parsed.add(text, marks=marks)
            self._keep(parsed, record, members)
        parsed.nbytes += sum(map(len, members.values()))
        return len(text)

    def _keep(self, parsed: Parsed, record: Any, members: dict[str, bytes]) -> None:
        if self._fields.keep and record is None and "json" in members:
            try:
                record = orjson.loads(members["json"])
            except orjson.JSONDecodeError:
                record = None
        for name in self._fields.keep:
            value = members[name] if name in members else lookup(record, name)
            parsed.meta[name].append(as_metadata(value))

    def _reject(self, parsed: Parsed, offset: int, key: str, reason: str, detail: str) -> None:
        parsed.rejects.append(
            Reject(
                source=self._url, offset=offset, line=None, reason=reason, detail=f"sample {key}: {detail}"
            )
        )


def is_lines(name: str) -> bool:
    """Does a member hold JSON lines, by its name?"""
    path = PurePosixPath(name.lower())
    return (path.with_suffix("") if path.suffix in SUFFIXES else path).suffix in (".jsonl", ".ndjson")


def _is_system_file(name: str) -> bool:
    """Files that systems and tools leave in archives, and WebDataset's own members: no samples."""
    return name.startswith(("._", "__")) or name in (".DS_Store", "Thumbs.db", "desktop.ini")


class _Readable(io.RawIOBase):
    """A Stream as tarfile reads one."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.ends_in_zeros = False
        """Does what was read last close an archive?"""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        buffer = memoryview(bytearray(size))
        filled = 0
        while filled < size and (n := self._stream.readinto(buffer[filled:])):
            filled += n
        if filled:
            self.ends_in_zeros = not bytes(buffer[max(filled - tarfile.BLOCKSIZE, 0) : filled]).strip(b"\0")
        return bytes(buffer[:filled])
