"""One unit of work -> sketches of its documents, before any is tokenized: the first of two passes of dedup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy.typing as npt
import orjson

from headrace.ingestion.operators import exact, minhash
from headrace.ingestion.options import Options
from headrace.ingestion.read.sources import Source
from headrace.ingestion.units import seekpoints
from headrace.ingestion.units.journal import sketch_path, sketched_path
from headrace.ingestion.units.plan import Unit
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.work.intake import Intake, Progress, Rejects, Tally
from headrace.storage import Blob


class Sketching:
    """A worker's state in the first pass; see `Work`."""

    def __init__(self, *, sources: Sequence[Source], options: Options, blob: Blob, strict: bool) -> None:
        self._exact = options.dedup == "exact"
        self._blob = blob
        self._intake = Intake(
            sources,
            options,
            strict=strict,
            seek_points=lambda source: seekpoints.load(source, options, blob),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the open file."""
        self._intake.close()

    def run(self, unit: Unit, progress: Callable[[Progress], None]) -> UnitRecord:
        """Write a unit's sketches, then its record; see `Work.run`."""
        tally = Tally(track=unit.track, part=unit.part)
        sketches: list[npt.NDArray[Any]] = []
        with Rejects() as rejects:
            for batch, read in self._intake.batches(unit, tally, rejects):
                if batch.texts:
                    with self._intake.stats.busy("sketch", items=len(batch.texts)):
                        sketches.append((exact if self._exact else minhash).sketch(batch.texts))
                progress(read)
        self._blob.put(sketch_path(unit.key), [part.tobytes() for part in sketches])
        record = UnitRecord(
            track=unit.track,
            part=unit.part,
            shards=(),
            documents=sum(map(len, sketches)),
            lines=tally.counts["lines"],
            stored_bytes=tally.counts["stored_bytes"],
            ended=tally.ended,
            seconds={name: count.busy_s for name, count in self._intake.stats.snapshot().items()},
        )
        self._blob.put(sketched_path(unit.key), orjson.dumps(record.to_json()))
        return record
