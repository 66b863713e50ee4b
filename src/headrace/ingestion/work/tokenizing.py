"""One unit of work -> its shards, rejects and record; the same bytes on any worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import orjson

from headrace.errors import TokenizerError
from headrace.ingestion.document import Parsed
from headrace.ingestion.operators.split import is_validation
from headrace.ingestion.options import Options
from headrace.ingestion.read.sources import Source
from headrace.ingestion.units import seekpoints
from headrace.ingestion.units.journal import drop_path, record_path, rejects_path
from headrace.ingestion.units.plan import Unit
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.work.intake import Intake, Progress, Rejects, Tally
from headrace.ingestion.work.outlet import Outlet
from headrace.storage import Blob
from headrace.tokens import Tokenizer
from headrace.tokens.flat import lengths_of


class Work:
    """A worker's state: tokenizer, buffers and open files live from unit to unit."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        options: Options,
        tokenizer: Tokenizer,
        blob: Blob,
        validation: Blob | None,
        generation: int,
        strict: bool = False,
    ) -> None:
        self._options = options
        self.tokenizer = tokenizer
        self._blob = blob
        self._generation = generation
        self._intake = Intake(
            sources,
            options,
            strict=strict,
            seek_points=lambda source: seekpoints.load(source, options, blob),
        )
        self._train = Outlet(blob, options, tokenizer)
        self._validation = None if validation is None else Outlet(validation, options, tokenizer)

    def run(self, unit: Unit, progress: Callable[[Progress], None]) -> UnitRecord:
        """Do a unit, write its shards, then its record.

        Raises:
            SourceError: a file is missing, truncated or damaged.
            DocumentError: strict, and a document is bad.
        """
        tally = Tally(track=unit.track, part=unit.part)
        repeated = self._repeated(unit)
        outlets = [self._train] if self._validation is None else [self._train, self._validation]
        with Rejects() as rejects:
            batches = self._intake.batches(unit, tally, rejects)
            for outlet in outlets:
                outlet.start(f"{self._generation:03d}-{unit.key}")
            for batch, read in batches:
                progress(read)
                self._drop_repeated(batch, repeated, tally)
                for outlet, part in zip(outlets, self._split(batch), strict=False):
                    progress(self._encode(part, outlet, tally))
            for outlet in outlets:
                outlet.flush(self._intake.stats)
            if tally.rejected:
                self._blob.put(rejects_path(unit.key), rejects.data())
        record = UnitRecord(
            track=unit.track,
            part=unit.part,
            shards=tuple(self._train.entries),
            validation=tuple(self._validation.entries) if self._validation is not None else (),
            rejected=dict(sorted(tally.rejected.items())),
            dropped=dict(sorted(tally.dropped.items())),
            first_reject=tally.first_reject,
            ended=tally.ended,
            seconds={name: count.busy_s for name, count in self._intake.stats.snapshot().items()},
            **{name: tally.counts[name] for name in _COUNTS},
        )
        self._blob.put(record_path(unit.key), orjson.dumps(record.to_json()))
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the open file."""
        self._intake.close()

    def _repeated(self, unit: Unit) -> npt.NDArray[np.bool_] | None:
        """Which documents of the unit stood somewhere before; None where nobody asked."""
        if self._options.dedup is None:
            return None
        try:
            packed = np.frombuffer(bytes(self._blob.get(drop_path(unit.key))), dtype=np.uint8)
        except FileNotFoundError:
            packed = np.empty(0, dtype=np.uint8)  # behind the end of an open track: there are no documents
        return np.unpackbits(packed).astype(np.bool_)

    def _drop_repeated(self, batch: Parsed, repeated: npt.NDArray[np.bool_] | None, tally: Tally) -> None:
        if repeated is None:
            return
        first = tally.counts["prepared"]
        tally.counts["prepared"] += len(batch.texts)
        assert tally.counts["prepared"] <= len(repeated), "the two passes met different documents"
        keep = np.flatnonzero(~repeated[first : first + len(batch.texts)]).tolist()
        if len(keep) < len(batch.texts):
            tally.dropped["repeated"] += len(batch.texts) - len(keep)
            _choose(batch, keep)

    def _split(self, batch: Parsed) -> list[Parsed]:
        """Training documents, validation documents."""
        share, seed = self._options.validation_share, self._options.seed
        if self._validation is None or not batch.texts:
            return [batch]
        chosen = [is_validation(text, share, seed) for text in batch.texts]
        other = Parsed(texts=list(batch.texts), meta=dict(batch.meta))
        _choose(other, [i for i, validation in enumerate(chosen) if validation])
        _choose(batch, [i for i, validation in enumerate(chosen) if not validation])
        return [batch, other]

    def _encode(self, batch: Parsed, outlet: Outlet, tally: Tally) -> Progress:
        if not batch.texts:
            return Progress()
        stats = self._intake.stats
        with stats.busy("tokenize", items=len(batch.texts)):
            ids, offsets = self.tokenizer.encode_batch(batch.texts)
        forged = np.flatnonzero(ids == self.tokenizer.eos_id)
        if len(forged):
            text = batch.texts[int(np.searchsorted(offsets, forged[0], side="right")) - 1]
            raise TokenizerError(
                f"tokenizer {self.tokenizer.name}: the text {text[:80]!r} encodes to the end-of-document id "
                f"{self.tokenizer.eos_id}: a document could forge another's end. Choose another eos_token"
            )
        lengths = lengths_of(batch.texts)
        outlet.add(ids, offsets, lengths, batch.meta, stats)
        done = Progress(text_bytes=int(lengths.sum()), documents=len(lengths), tokens=len(ids) + len(lengths))
        prefix = "" if outlet is self._train else "validation_"
        tally.counts[f"{prefix}text_bytes"] += done.text_bytes
        tally.counts[f"{prefix}documents"] += done.documents
        tally.counts[f"{prefix}tokens"] += done.tokens
        return done


_COUNTS = (
    "documents",
    "tokens",
    "text_bytes",
    "validation_documents",
    "validation_tokens",
    "validation_text_bytes",
    "raw_bytes",
    "stored_bytes",
    "lines",
)


def _choose(batch: Parsed, keep: Sequence[int]) -> None:
    texts = list(batch.texts)
    batch.texts = [texts[i] for i in keep]
    batch.meta = {name: [values[i] for i in keep] for name, values in batch.meta.items()}
