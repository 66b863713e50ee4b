"""One unit of work -> its shards, rejects and record; the same bytes on any worker."""

from __future__ import annotations

import mmap
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa

from headrace.errors import DocumentError, TokenizerError
from headrace.ingest.document import Parsed, Reject
from headrace.ingest.journal import record_path, rejects_path
from headrace.ingest.options import Options
from headrace.ingest.pack import Packer
from headrace.ingest.plan import Unit
from headrace.ingest.reader import Reader, open_reader
from headrace.ingest.record import UnitRecord
from headrace.ingest.sources import Source
from headrace.stats import Stats
from headrace.store import Blob, ShardEntry, token_dtype, write_shard
from headrace.tokens import Tokenizer
from headrace.tokens.protocol import Ids, Offsets

BATCH_BYTES = 1 << 20
"""Texts are tokenized in batches of at least this size: calls cost little, and the batch stays in cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What was done since the last one."""

    stored_bytes: int = 0
    text_bytes: int = 0
    documents: int = 0
    tokens: int = 0


class Work:
    """A worker's state: tokenizer, buffers and open files live from unit to unit."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        options: Options,
        tokenizer: Tokenizer,
        blob: Blob,
        generation: int,
        strict: bool = False,
    ) -> None:
        self._sources = sources
        self._options = options
        self.tokenizer = tokenizer
        self._blob = blob
        self._generation = generation
        self._strict = strict
        self._packer = Packer(token_dtype(tokenizer.vocab_size), eos_id=tokenizer.eos_id)
        self._reader: tuple[int, Reader] | None = None
        self._stats = Stats()

    def run(self, unit: Unit, progress: Callable[[Progress], None]) -> UnitRecord:
        """Do a unit, write its shards, then its record.

        Raises:
            SourceError: a file is missing, truncated or damaged.
            DocumentError: strict, and a document is bad.
        """
        self._stats = Stats()
        self._close_reader(unless=unit.pieces[0].source)
        with _Rejects() as rejects:
            prefix = f"{self._generation:03d}-{unit.key}"
            shards = _Shards(self._packer, self._blob, self._options, prefix, self._stats)
            run = _Run(track=unit.track, part=unit.part)
            pending = Parsed(texts=[], meta={name: [] for name in self._options.fields.keep})
            pending_bytes = 0
            for parsed, stored in self._read(unit, run):
                self._take_rejects(parsed.rejects, rejects, run)
                pending.texts += parsed.texts
                for name, values in parsed.meta.items():
                    pending.meta[name] += values
                pending_bytes += parsed.nbytes
                progress(Progress(stored_bytes=stored))
                if pending_bytes >= BATCH_BYTES:
                    progress(self._encode(pending, shards, run))
                    pending = Parsed(texts=[], meta={name: [] for name in pending.meta})
                    pending_bytes = 0
            progress(self._encode(pending, shards, run))
            shards.flush()
            if run.rejected:
                self._blob.put(rejects_path(unit.key), rejects.data())
            record = UnitRecord(
                track=unit.track,
                part=unit.part,
                shards=tuple(shards.entries),
                rejected=dict(sorted(run.rejected.items())),
                dropped=dict(sorted(run.dropped.items())),
                first_reject=run.first_reject,
                ended=run.ended,
                seconds={name: count.busy_s for name, count in self._stats.snapshot().items()},
                **{name: run.tally[name] for name in _TALLIES},
            )
            self._blob.put(record_path(unit.key), orjson.dumps(record.to_json()))
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the open file."""
        self._close_reader(unless=None)

    def _read(self, unit: Unit, run: _Run) -> Iterator[tuple[Parsed, int]]:
        """What the unit's pieces hold, and the stored bytes that were passed for it."""
        for piece in unit.pieces:
            source = self._sources[piece.source]
            reader = self._open(piece.source)
            before = reader.stored_position() or (piece.start if source.compression == "none" else None)
            for parsed in reader.read(piece.start, piece.stop):
                run.tally["raw_bytes"] += parsed.nbytes
                run.tally["lines"] += parsed.lines
                run.dropped["empty"] += parsed.empty
                position = reader.stored_position()
                # What a fresh reader decompressed to get here belongs to other units.
                passed = 0 if before is None and piece.start else max(position - (before or 0), 0)
                run.tally["stored_bytes"] += passed
                yield parsed, passed
                before = position
            run.ended = reader.at_end
            if reader.at_end:
                self._close_reader(unless=None)
        run.dropped += Counter()  # forget zeros

    def _open(self, source: int) -> Reader:
        if self._reader is None or self._reader[0] != source:
            self._close_reader(unless=None)
            options = self._options
            reader = open_reader(self._sources[source], options.fields, options.text_mode, self._stats)
            self._reader = (source, reader)
        return self._reader[1]

    def _close_reader(self, *, unless: int | None) -> None:
        if self._reader is not None and self._reader[0] != unless:
            self._reader[1].close()
            self._reader = None

    def _take_rejects(self, found: Sequence[Reject], rejects: _Rejects, run: _Run) -> None:
        for reject in found:
            if self._strict:
                raise StrictStop(asdict(reject), run.track, run.part)
            if run.first_reject is None:
                run.first_reject = asdict(reject)
            run.rejected[reject.reason] += 1
            rejects.add(reject)

    def _encode(self, pending: Parsed, shards: _Shards, run: _Run) -> Progress:
        if not pending.texts:
            return Progress()
        with self._stats.busy("tokenize", items=len(pending.texts)):
            ids, offsets = self.tokenizer.encode_batch(pending.texts)
        forged = np.flatnonzero(ids == self.tokenizer.eos_id)
        if len(forged):
            text = pending.texts[int(np.searchsorted(offsets, forged[0], side="right")) - 1]
            raise TokenizerError(
                f"tokenizer {self.tokenizer.name}: the text {text[:80]!r} encodes to the end-of-document id "
                f"{self.tokenizer.eos_id}: a document could forge another's end. Choose another eos_token"
            )
        lengths = np.fromiter(map(len, pending.texts), dtype=np.int64, count=len(pending.texts))
        shards.add(ids, offsets, lengths, pending.meta)
        done = Progress(text_bytes=int(lengths.sum()), documents=len(lengths), tokens=len(ids) + len(lengths))
        run.tally["text_bytes"] += done.text_bytes
        run.tally["documents"] += done.documents
        run.tally["tokens"] += done.tokens
        return done


_TALLIES = ("documents", "tokens", "text_bytes", "raw_bytes", "stored_bytes", "lines")


class StrictStop(DocumentError):
    """Strict, and this document is bad; the job says so once it knows that none before it is."""

    def __init__(self, reject: dict[str, Any], track: int, part: int) -> None:
        super().__init__(reject["detail"])
        self.reject = reject
        self.track = track
        self.part = part

    def __reduce__(self) -> tuple[Any, ...]:
        return StrictStop, (self.reject, self.track, self.part)


@dataclass(slots=True, kw_only=True)
class _Run:
    """Counts of one unit as it goes."""

    track: int
    part: int
    tally: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    first_reject: dict[str, Any] | None = None
    ended: bool = True


class _Shards:
    """Shards of one unit: a shard is closed by the document that fills it."""

    def __init__(self, packer: Packer, blob: Blob, options: Options, prefix: str, stats: Stats) -> None:
        self._packer = packer
        packer.clear()
        self._blob = blob
        self._options = options
        self._prefix = prefix
        self._text_bytes = 0
        self._meta: dict[str, list[str | None]] = {name: [] for name in options.fields.keep}
        self.entries: list[ShardEntry] = []
        self._stats = stats

    def add(self, ids: Ids, offsets: Offsets, lengths: Offsets, meta: dict[str, list[str | None]]) -> None:
        """Append documents, and close shards where they are full."""
        filled = self._text_bytes + np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            stop = int(np.searchsorted(filled, self._options.shard_text_bytes)) + 1
            full = stop <= len(lengths)
            stop = min(stop, len(lengths))
            first, last = offsets[start], offsets[stop]
            with self._stats.busy("pack"):
                self._packer.add(ids[first:last], offsets[start : stop + 1] - first)
            for name, values in meta.items():
                self._meta[name] += values[start:stop]
            self._text_bytes = int(filled[stop - 1])
            if full:
                self.flush()
                filled = filled - int(filled[stop - 1])
            start = stop

    def flush(self) -> None:
        """Write what there is as a shard."""
        if not len(self._packer.tokens):
            return
        meta = {name: pa.array(values, type=pa.string()) for name, values in self._meta.items()}
        with self._stats.busy("write", items=1):
            entry = write_shard(
                self._blob,
                f"{self._prefix}-{len(self.entries):04d}",
                self._packer.tokens,
                self._packer.document_ends,
                codec=self._options.codec,
                block_tokens=self._options.block_tokens,
                metadata=pa.table(meta) if meta else None,
            )
        self.entries.append(entry)
        self._packer.clear()
        self._text_bytes = 0
        for values in self._meta.values():
            values.clear()


class _Rejects:
    """Rejects of one unit, on disk once they are many."""

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
