"""One unit -> sketches of its documents: the first of two passes of deduplication, before any text is tokenized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from headrace.ingestion.document import Parsed
from headrace.ingestion.operators import exact, minhash, pieces, urls
from headrace.ingestion.options import ContentOptions, JobOptions
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units import seekpoints
from headrace.ingestion.units.journal import sketch_path, sketched_path
from headrace.ingestion.units.plan import Unit
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.sealed import hash_of, seal
from headrace.ingestion.build.document_reader import DocumentReader, UnitProgress, RejectFile, UnitCounts
from headrace.storage import Blob


class UnitSketcher:
    """A worker of the first pass; see `UnitTokenizer`."""

    def __init__(self, *, sources: Sequence[SourceFile], options: ContentOptions, blob: Blob, limits: JobOptions) -> None:
        self._options = options.operators
        self._blob = blob
        self._documents = DocumentReader(
            sources,
            options,
            limits=limits,
            seek_points=lambda source: seekpoints.load(source, options, blob),
        )

    def close(self) -> None:
        """Close the open file."""
        self._documents.close()

    def run(self, task: Unit, notify: Callable[[UnitProgress], None]) -> UnitRecord:
        """Write a unit's sketches, then its record; see `Worker`."""
        unit = task
        counts = UnitCounts(track=unit.track, part=unit.part)
        sketches: list[npt.NDArray[Any]] = []
        with RejectFile() as rejects:
            for batch, read in self._documents.batches(unit, counts, rejects):
                if batch.texts:
                    with self._documents.stats.busy("sketch", items=len(batch.texts)):
                        sketches.append(self._sketch(batch))
                notify(read)
        data = b"".join([part.tobytes() for part in sketches])
        self._blob.put(sketch_path(unit.key), data)
        record = UnitRecord(
            track=unit.track,
            part=unit.part,
            shards=(),
            documents=sum(map(len, sketches)),
            lines=counts.totals["lines"],
            stored_bytes=counts.totals["stored_bytes"],
            ended=counts.ended,
            file_hash=hash_of(data),
            seconds={name: count.busy_s for name, count in self._documents.stats.snapshot().items()},
        )
        self._blob.put(sketched_path(unit.key), seal(record.to_json()))
        return record

    def _sketch(self, batch: Parsed) -> npt.NDArray[Any]:
        kind = self._options.dedup
        if kind == "url":
            return urls.sketch(batch.meta[self._options.dedup_field])
        if kind == "lines" or kind == "sentences":
            return pieces.sketch(list(batch.texts), kind, self._options.dedup_min_chars)
        texts = list(batch.texts)
        return exact.sketch(texts) if kind == "exact" else minhash.sketch(texts)
