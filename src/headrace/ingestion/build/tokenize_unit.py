"""One unit -> its shards, its rejected documents and its record; the same bytes on any worker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import ConfigError, TokenizerError
from headrace.ingestion.build.document_reader import DocumentReader, RejectFile, UnitCounts, UnitProgress
from headrace.ingestion.build.shard_writer import ShardWriter
from headrace.ingestion.build.tokenizer_check import engine_mismatch
from headrace.ingestion.document import Parsed
from headrace.ingestion.operators.pieces import PieceKind, without_repeats
from headrace.ingestion.operators.split import is_validation
from headrace.ingestion.options import ContentOptions, JobOptions
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units import seekpoints
from headrace.ingestion.units.journal import UnitJournal, drop_path, record_path, rejects_path
from headrace.ingestion.units.plan import Unit
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.sealed import hash_of, read_hashed, seal
from headrace.storage import Blob
from headrace.tokens import Ids, Offsets, PartEncoder, Tokenizer, lengths_of


@dataclass(frozen=True, slots=True)
class CheckTokenizer:
    """The task to compare the worker's tokenizer with its reference, on a sample of the corpus."""


class UnitTokenizer:
    """A worker that turns units into shards; tokenizer, buffers and the open file are kept between units."""

    def __init__(
        self,
        *,
        sources: Sequence[SourceFile],
        options: ContentOptions,
        tokenizer: Tokenizer,
        blob: Blob,
        validation: Blob | None,
        generation: int,
        limits: JobOptions,
    ) -> None:
        self._sources = sources
        self._options = options
        self.tokenizer = tokenizer
        self._blob = blob
        self._generation = generation
        self._duplicates: Mapping[str, str] | None = None
        self._documents = DocumentReader(
            sources,
            options,
            limits=limits,
            seek_points=lambda source: seekpoints.load(source, options, blob),
        )
        self._training = ShardWriter(blob, options, tokenizer)
        self._validation = None if validation is None else ShardWriter(validation, options, tokenizer)

    def run(self, task: Unit | CheckTokenizer, notify: Callable[[UnitProgress], None]) -> Any:
        """Run a task; see `Worker`.

        Returns:
            A `UnitRecord` for a unit; for a check, the engine's name if it gives the reference's ids, else the
            first text on which it does not (a `Mismatch`).

        Raises:
            SourceError: a file is missing, truncated or damaged.
            DocumentError: strict, and a document is bad.
        """
        if isinstance(task, CheckTokenizer):
            return (
                engine_mismatch(self.tokenizer, self._sources, self._options) or self.tokenizer.engine
            )
        return self._write_shards(task, notify)

    @functools.cached_property
    def _parts(self) -> PartEncoder:
        return PartEncoder(self.tokenizer)

    def close(self) -> None:
        """Close the open file."""
        self._documents.close()

    def _write_shards(self, unit: Unit, notify: Callable[[UnitProgress], None]) -> UnitRecord:
        """Write a unit's shards, then its record."""
        counts = UnitCounts(track=unit.track, part=unit.part)
        duplicate = self._load_duplicates(unit)
        writers = [self._training] if self._validation is None else [self._training, self._validation]
        with RejectFile() as rejects:
            batches = self._documents.batches(unit, counts, rejects)
            for writer in writers:
                writer.start(f"{self._generation:03d}-{unit.key}")
            for batch, read in batches:
                notify(read)
                self._drop_duplicates(batch, duplicate, counts)
                for writer, part in zip(writers, self._split(batch), strict=False):
                    notify(self._encode(part, writer, counts))
            for writer in writers:
                writer.flush(self._documents.stats)
            file_hash = ""
            if counts.rejected:
                file_hash = hash_of(rejects.data())
                self._blob.put(rejects_path(unit.key), rejects.data())
        record = UnitRecord(
            track=unit.track,
            part=unit.part,
            shards=tuple(self._training.entries),
            validation=tuple(self._validation.entries) if self._validation is not None else (),
            rejected=dict(sorted(counts.rejected.items())),
            dropped=dict(sorted(counts.dropped.items())),
            kept=dict(counts.kept),
            first_reject=counts.first_reject,
            ended=counts.ended,
            chunks=self._documents.hash_sources(unit),
            file_hash=file_hash,
            seconds={name: count.busy_s for name, count in self._documents.stats.snapshot().items()},
            **{name: counts.totals[name] for name in _COUNTS},
        )
        self._blob.put(record_path(unit.key), seal(record.to_json()))
        return record

    def _load_duplicates(self, unit: Unit) -> npt.NDArray[np.bool_] | None:
        """Which documents of the unit are duplicates of earlier ones; None without deduplication."""
        if self._options.operators.dedup == "none":
            return None
        if self._duplicates is None:
            self._duplicates = UnitJournal(self._blob).duplicates() or {}
        if unit.key not in self._duplicates:
            return np.empty(0, dtype=np.bool_)  # past the end of an open track: no documents
        data = read_hashed(self._blob, drop_path(unit.key), self._duplicates[unit.key])
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8)).astype(np.bool_)

    def _drop_duplicates(self, batch: Parsed, duplicate: npt.NDArray[np.bool_] | None, counts: UnitCounts) -> None:
        if duplicate is None:
            return
        kind = self._options.operators.dedup
        if kind == "lines" or kind == "sentences":
            self._remove_pieces(batch, kind, duplicate, counts)
            return
        first = counts.totals["prepared"]
        counts.totals["prepared"] += len(batch.texts)
        assert counts.totals["prepared"] <= len(duplicate), "the two passes read different documents"
        keep = np.flatnonzero(~duplicate[first : first + len(batch.texts)]).tolist()
        if len(keep) < len(batch.texts):
            counts.dropped["repeated"] += len(batch.texts) - len(keep)
            batch.select(keep)

    def _remove_pieces(
        self, batch: Parsed, kind: PieceKind, repeated: npt.NDArray[np.bool_], counts: UnitCounts
    ) -> None:
        if batch.has_marks:
            raise ConfigError(
                f"dedup {kind} changes texts, and here are conversations, whose parts it would move. Leave it out, or take "
                f"dedup exact or minhash"
            )
        texts: list[bytes] = []
        at = counts.totals["prepared"]
        for text in batch.texts:
            left, compared, removed = without_repeats(
                text, repeated[at:], kind, self._options.operators.dedup_min_chars
            )
            at += compared
            texts.append(left)
            counts.totals["removed_pieces"] += removed
        assert at <= len(repeated), "the two passes read different documents"
        counts.totals["prepared"] = at
        keep = [i for i, text in enumerate(texts) if text.strip()]
        if len(keep) < len(texts):
            counts.dropped["repeated"] += len(texts) - len(keep)
        batch.select(keep)
        batch.texts = [texts[i] for i in keep]

    def _split(self, batch: Parsed) -> list[Parsed]:
        """Training documents, validation documents."""
        share, seed = self._options.operators.validation_share, self._options.operators.seed
        if self._validation is None or not batch.texts:
            return [batch]
        chosen = [is_validation(text, share, seed) for text in batch.texts]
        other = Parsed(texts=list(batch.texts), meta=dict(batch.meta), marks=list(batch.marks))
        other.select([i for i, validation in enumerate(chosen) if validation])
        batch.select([i for i, validation in enumerate(chosen) if not validation])
        return [batch, other]

    def _encode(self, batch: Parsed, writer: ShardWriter, counts: UnitCounts) -> UnitProgress:
        if not batch.texts:
            return UnitProgress()
        stats = self._documents.stats
        lengths = lengths_of(batch.texts)
        given = 0
        with stats.busy("tokenize", items=len(batch.texts)):
            if batch.has_marks:
                encoded = self._parts.encode(batch.texts, batch.marks)
                ids, offsets = encoded.ids, encoded.offsets
                given = int((~encoded.learned).sum() + (~encoded.learned_ends).sum())
            else:
                encoded = None
                ids, offsets = self.tokenizer.encode_batch(batch.texts)
                self._check_no_end(ids, offsets, batch)
        writer.add(ids, offsets, lengths, batch.meta, stats, encoded)
        done = UnitProgress(text_bytes=int(lengths.sum()), documents=len(lengths), tokens=len(ids) + len(lengths))
        prefix = "" if writer is self._training else "validation_"
        counts.totals[f"{prefix}text_bytes"] += done.text_bytes
        counts.totals[f"{prefix}documents"] += done.documents
        counts.totals[f"{prefix}tokens"] += done.tokens
        counts.totals[f"{prefix}given_tokens"] += given
        return done

    def _check_no_end(self, ids: Ids, offsets: Offsets, batch: Parsed) -> None:
        """Refuse a tokenizer by which a text holds the end of a document."""
        eos_at = np.flatnonzero(ids == self.tokenizer.eos_id)
        if len(eos_at):
            text = batch.texts[int(np.searchsorted(offsets, eos_at[0], side="right")) - 1]
            raise TokenizerError(
                f"tokenizer {self.tokenizer.name}: the text {text[:80]!r} encodes to the end-of-document id "
                f"{self.tokenizer.eos_id}: a document could forge another's end. Choose another eos_token"
            )


_COUNTS = (
    "documents",
    "tokens",
    "given_tokens",
    "text_bytes",
    "validation_documents",
    "validation_tokens",
    "validation_text_bytes",
    "raw_bytes",
    "stored_bytes",
    "lines",
    "removed_pieces",
)
