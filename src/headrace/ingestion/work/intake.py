"""A unit -> its documents, ready to be tokenized: read, bad ones put aside, operators applied, all counted."""

from __future__ import annotations

import mmap
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from headrace.errors import DocumentError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.operators.filters import filtered
from headrace.ingestion.operators.normalise import normalise
from headrace.ingestion.operators.sample import is_sampled
from headrace.ingestion.options import Options
from headrace.ingestion.parse.reader import Reader, open_reader
from headrace.ingestion.read.sources import Source
from headrace.ingestion.units.plan import Unit
from headrace.stats import Stats
from headrace.tokens.flat import FlatTexts

BATCH_BYTES = 1 << 20
"""Texts are handed on in batches of at least this size: calls cost little, and the batch stays in cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What was done since the last one."""

    stored_bytes: int = 0
    text_bytes: int = 0
    documents: int = 0
    tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one unit as it goes."""

    track: int
    part: int
    counts: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    first_reject: dict[str, Any] | None = None
    ended: bool = True


class StrictStop(DocumentError):
    """Strict, and this document is bad; the job says so once it knows that none before it is."""

    def __init__(self, reject: dict[str, Any], track: int, part: int) -> None:
        super().__init__(reject["detail"])
        self.reject = reject
        self.track = track
        self.part = part

    def __reduce__(self) -> tuple[Any, ...]:
        return StrictStop, (self.reject, self.track, self.part)


class Rejects:
    """Rejects of one unit, on disk: they may be many."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="headrace-rejects-")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, reject: Reject) -> None:
        """Write one down."""
        self._file.write(orjson.dumps(asdict(reject), option=orjson.OPT_APPEND_NEWLINE))

    def data(self) -> memoryview:
        """All of them, as JSON lines."""
        self._file.flush()
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))


class Intake:
    """Documents of units; the file that is open stays open for the next unit."""

    def __init__(
        self,
        sources: Sequence[Source],
        options: Options,
        *,
        strict: bool,
        seek_points: Callable[[Source], bytes | None],
    ) -> None:
        self._sources = sources
        self._seek_points = seek_points
        self._options = options
        self._strict = strict
        self._reader: tuple[int, Reader] | None = None
        self.stats = Stats()

    def close(self) -> None:
        """Close the open file."""
        self._close_reader(unless=None)

    def batches(self, unit: Unit, tally: Tally, rejects: Rejects) -> Iterator[tuple[Parsed, Progress]]:
        """Batches of documents of a megabyte or more, and what was read for each.

        Raises:
            SourceError: a file is missing, truncated or damaged.
            StrictStop: strict, and a document is bad.
        """
        self.stats = Stats()
        self._close_reader(unless=unit.pieces[0].source)
        pending, size = self._empty(), 0
        for parsed, stored in self._read(unit, tally):
            self._put_aside(parsed.rejects, rejects, tally)
            if self._options.prepares:
                with self.stats.busy("prepare", items=len(parsed.texts)):
                    self._prepare(parsed, tally)
            if isinstance(parsed.texts, FlatTexts) and parsed.nbytes >= BATCH_BYTES:
                if pending.texts:
                    yield pending, Progress()
                    pending, size = self._empty(), 0
                yield parsed, Progress(stored_bytes=stored)
                continue
            pending.add(*parsed.texts)
            for name, values in parsed.meta.items():
                pending.meta[name] += values
            size += parsed.nbytes
            if size >= BATCH_BYTES:
                yield pending, Progress(stored_bytes=stored)
                pending, size = self._empty(), 0
            else:
                yield self._empty(), Progress(stored_bytes=stored)
        yield pending, Progress()

    def _empty(self) -> Parsed:
        return Parsed(texts=[], meta={name: [] for name in self._options.fields.keep})

    def _read(self, unit: Unit, tally: Tally) -> Iterator[tuple[Parsed, int]]:
        """What the unit's pieces hold, and the stored bytes that were passed for it."""
        for piece in unit.pieces:
            source = self._sources[piece.source]
            reader = self._open(piece.source)
            before = reader.stored_position() or (piece.start if source.compression == "none" else None)
            for parsed in reader.read(piece.start, piece.stop):
                tally.counts["raw_bytes"] += parsed.nbytes
                tally.counts["lines"] += parsed.lines
                if parsed.empty:
                    tally.dropped["empty"] += parsed.empty
                position = reader.stored_position()
                # What a fresh reader decompressed to get here belongs to other units.
                passed = 0 if before is None and piece.start else max(position - (before or 0), 0)
                tally.counts["stored_bytes"] += passed
                yield parsed, passed
                before = position
            tally.ended = reader.at_end
            if reader.at_end:
                self._close_reader(unless=None)

    def _open(self, source: int) -> Reader:
        if self._reader is None or self._reader[0] != source:
            self._close_reader(unless=None)
            options = self._options
            file = self._sources[source]
            reader = open_reader(file, options.fields, options.text_mode, self._seek_points(file))
            self._reader = (source, reader)
        reader = self._reader[1]
        reader.stats = self.stats
        return reader

    def _close_reader(self, *, unless: int | None) -> None:
        if self._reader is not None and self._reader[0] != unless:
            self._reader[1].close()
            self._reader = None

    def _put_aside(self, found: Sequence[Reject], rejects: Rejects, tally: Tally) -> None:
        for reject in found:
            if self._strict:
                raise StrictStop(asdict(reject), tally.track, tally.part)
            if tally.first_reject is None:
                tally.first_reject = asdict(reject)
            tally.rejected[reject.reason] += 1
            rejects.add(reject)

    def _prepare(self, parsed: Parsed, tally: Tally) -> None:
        """Normalise, filter and sample a batch in place."""
        options = self._options
        texts = [normalise(text) for text in parsed.texts] if options.normalise else list(parsed.texts)
        keep = []
        for i, text in enumerate(texts):
            reason = filtered(text, options.filters) if options.filters is not None else None
            if reason is None and options.sample < 1 and not is_sampled(text, options.sample, options.seed):
                reason = "not_sampled"
            if reason is None:
                keep.append(i)
            else:
                tally.dropped[reason] += 1
        parsed.texts = [texts[i] for i in keep]
        parsed.meta = {name: [values[i] for i in keep] for name, values in parsed.meta.items()}
