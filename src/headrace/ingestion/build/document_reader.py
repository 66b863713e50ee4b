"""A unit -> batches of its documents, ready to be tokenized: bad ones rejected, operators applied, all counted."""

from __future__ import annotations

import mmap
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from headrace.errors import ConfigError, DocumentError, SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.operators.filters import filtered
from headrace.ingestion.operators.language import foreign
from headrace.ingestion.operators.map import load_function, map_text
from headrace.ingestion.operators.normalise import normalise
from headrace.ingestion.operators.sample import is_sampled
from headrace.ingestion.options import ContentOptions, JobOptions
from headrace.ingestion.parse.reader import Reader, open_reader
from headrace.ingestion.read import content_hash
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.plan import SourceRange, Unit
from headrace.stats import Stats
from headrace.tokens import FlatTexts

DAMAGED = "damaged_file"
"""Reason of the reject that lists a file which cannot be read to its end; see `JobOptions.skip_damaged`."""

BATCH_BYTES = 1 << 20
"""Smallest batch of texts: large enough that calls cost little, small enough to stay in the CPU cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitProgress:
    """Work done since the previous message."""

    stored_bytes: int = 0
    text_bytes: int = 0
    documents: int = 0
    tokens: int = 0


@dataclass(slots=True, kw_only=True)
class UnitCounts:
    """Counts of one unit while it is read."""

    track: int
    part: int
    totals: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    """Documents with a value, by kept field."""
    first_reject: dict[str, Any] | None = None
    ended: bool = True


class StrictError(DocumentError):
    """A bad document in strict mode. The job raises it once it knows that no document before it is bad."""

    def __init__(self, reject: dict[str, Any], track: int, part: int) -> None:
        super().__init__(reject["detail"])
        self.reject = reject
        self.track = track
        self.part = part

    def __reduce__(self) -> tuple[Any, ...]:
        return StrictError, (self.reject, self.track, self.part)


class RejectFile:
    """Rejected documents of one unit, in a temporary file: there may be many."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="headrace-rejects-")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, reject: Reject) -> None:
        """Append one."""
        self._file.write(orjson.dumps(asdict(reject), option=orjson.OPT_APPEND_NEWLINE))

    def data(self) -> memoryview:
        """All of them, as JSON lines."""
        self._file.flush()
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))


class DocumentReader:
    """Reads the documents of units; the open file is kept for the next unit, which often continues it."""

    def __init__(
        self,
        sources: Sequence[SourceFile],
        options: ContentOptions,
        *,
        limits: JobOptions,
        seek_points: Callable[[SourceFile], bytes | None],
    ) -> None:
        self._sources = sources
        self._seek_points = seek_points
        self._options = options
        self._limits = limits
        name = options.operators.map
        self._function = None if name is None else load_function(name)
        self._reader: tuple[int, Reader] | None = None
        self.stats = Stats()

    def close(self) -> None:
        """Close the open file."""
        self._close_reader(unless=None)

    def batches(self, unit: Unit, counts: UnitCounts, rejects: RejectFile) -> Iterator[tuple[Parsed, UnitProgress]]:
        """Batches of documents of 1 MiB or more, and the progress that each means.

        Raises:
            SourceError: a file is missing, truncated or damaged.
            StrictError: strict, and a document is bad.
        """
        self.stats = Stats()
        self._close_reader(unless=unit.ranges[0].source)
        pending, size = self._empty(), 0
        for parsed, stored in self._read(unit, counts):
            self._reject(parsed.rejects, rejects, counts)
            if self._options.operators.changes_texts:
                with self.stats.busy("prepare", items=len(parsed.texts)):
                    self._prepare(parsed, counts)
            if isinstance(parsed.texts, FlatTexts) and parsed.nbytes >= BATCH_BYTES:
                if pending.texts:
                    yield pending, UnitProgress()
                    pending, size = self._empty(), 0
                yield parsed, UnitProgress(stored_bytes=stored)
                continue
            pending.extend(parsed)
            size += parsed.nbytes
            if size >= BATCH_BYTES:
                yield pending, UnitProgress(stored_bytes=stored)
                pending, size = self._empty(), 0
            else:
                yield self._empty(), UnitProgress(stored_bytes=stored)
        yield pending, UnitProgress()

    def hash_sources(self, unit: Unit) -> dict[str, dict[str, str]]:
        """Hashes of this unit's share of the chunks of its local sources; their bytes are in the page cache now."""
        hashes: dict[str, dict[str, str]] = {}
        with self.stats.busy("hash"):
            for part in unit.ranges:
                source = self._sources[part.source]
                if content_hash.has_content_hash(source.url):
                    # Ranges of tables count row groups: each unit takes as many chunks as it has of them.
                    step = 1 if source.format in ("parquet", "arrow") else content_hash.CHUNK_BYTES
                    share = [
                        chunk
                        for chunk in range(content_hash.num_chunks(source.nbytes))
                        if part.start <= chunk * step and (part.stop is None or chunk * step < part.stop)
                    ]
                    digests = content_hash.hash_chunks(source.url, share)
                    hashes[str(part.source)] = {str(chunk): digest for chunk, digest in digests.items()}
        return hashes

    def _empty(self) -> Parsed:
        return Parsed(texts=[], meta={name: [] for name in self._options.fields.keep})

    def _read(self, unit: Unit, counts: UnitCounts) -> Iterator[tuple[Parsed, int]]:
        """Parsed blocks of the unit's ranges, and the stored bytes read for each."""
        for part in unit.ranges:
            try:
                yield from self._read_range(part, counts)
            except SourceError as error:
                if not self._limits.skip_damaged:
                    raise
                self._close_reader(unless=None)
                counts.ended = True  # nothing behind the damage can be read
                url = self._sources[part.source].url
                yield Parsed(texts=[], rejects=[_damaged(url, part.start, str(error).removeprefix(f"{url}: "))]), 0

    def _read_range(self, part: SourceRange, counts: UnitCounts) -> Iterator[tuple[Parsed, int]]:
        source = self._sources[part.source]
        reader = self._open(part.source)
        before = reader.stored_position() or (part.start if source.compression == "none" else None)
        for parsed in reader.read(part.start, part.stop):
            counts.totals["raw_bytes"] += parsed.nbytes
            counts.totals["lines"] += parsed.lines
            if parsed.empty:
                counts.dropped["empty"] += parsed.empty
            counts.dropped.update(parsed.dropped)
            for name in self._options.fields.keep:
                values = parsed.meta.setdefault(name, [None] * len(parsed.texts))  # text files have no fields
                counts.kept[name] += sum(value is not None for value in values)
            position = reader.stored_position()
            # Bytes that a new reader decompressed to reach the start of this range belong to other units.
            passed = 0 if before is None and part.start else max(position - (before or 0), 0)
            counts.totals["stored_bytes"] += passed
            yield parsed, passed
            before = position
        counts.ended = reader.at_end
        if reader.at_end:
            self._close_reader(unless=None)

    def _open(self, source: int) -> Reader:
        if self._reader is None or self._reader[0] != source:
            self._close_reader(unless=None)
            options = self._options
            file = self._sources[source]
            reader = open_reader(file, options.fields, self._seek_points(file))
            self._reader = (source, reader)
        reader = self._reader[1]
        reader.stats = self.stats
        return reader

    def _close_reader(self, *, unless: int | None) -> None:
        if self._reader is not None and self._reader[0] != unless:
            self._reader[1].close()
            self._reader = None

    def _reject(self, new: Sequence[Reject], rejects: RejectFile, counts: UnitCounts) -> None:
        for reject in new:
            if self._limits.strict and reject.reason != DAMAGED:
                raise StrictError(asdict(reject), counts.track, counts.part)
            if counts.first_reject is None:
                counts.first_reject = asdict(reject)
            counts.rejected[reject.reason] += 1
            rejects.add(reject)

    def _prepare(self, parsed: Parsed, counts: UnitCounts) -> None:
        """Map, normalise, filter and sample a batch in place."""
        options = self._options.operators
        if parsed.has_marks and (options.map is not None or options.normalise):
            raise ConfigError(
                "map and normalise change texts, and here are conversations, whose parts they would move. Change the "
                "records before ingest, or leave the options out"
            )
        texts: list[bytes | None] = list(parsed.texts)
        if self._function is not None and options.map is not None:
            texts = [map_text(self._function, options.map, text) for text in parsed.texts]
        if options.normalise:
            texts = [None if text is None else normalise(text) for text in texts]
        keep = []
        for i, text in enumerate(texts):
            reason = self._drop_reason(text)
            if reason is None:
                keep.append(i)
            else:
                counts.dropped[reason] += 1
        parsed.select(keep)
        parsed.texts = [text for i in keep if (text := texts[i]) is not None]

    def _drop_reason(self, text: bytes | None) -> str | None:
        """Why a document is left out; None keeps it."""
        options = self._options.operators
        if text is None:
            return "mapped"
        if not text:
            return "empty"
        reason = filtered(text, options.filters) if options.filters is not None else None
        if reason is None and options.language:
            reason = foreign(text, options.language, options.language_min_score)
        if reason is None and options.sample < 1 and not is_sampled(text, options.sample, options.seed):
            return "not_sampled"
        return reason


def _damaged(url: str, offset: int, detail: str) -> Reject:
    return Reject(source=url, offset=offset, line=None, reason=DAMAGED, detail=detail)
