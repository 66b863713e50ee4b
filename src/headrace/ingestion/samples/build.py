"""A unit -> its shards and its record, on whichever worker; the same bytes on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.errors import DocumentError
from headrace.ingestion.document import Reject
from headrace.ingestion.samples.plan import SampleUnit
from headrace.ingestion.samples.rows import Row, read_rows
from headrace.ingestion.units.journal import record_path
from headrace.ingestion.units.sealed import seal
from headrace.storage import open_blob
from headrace.store import Feature, columns_of_rows, row_nbytes, write_sample_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleWorkerSetup:
    """What a worker is made from; it is pickled."""

    url: str
    features: Mapping[str, Feature]
    codec: str
    shard_bytes: int
    label_field: str
    strict: bool
    generation: int


class SampleBuilder:
    """A worker that turns units into shards; see `headrace.workers.Worker`."""

    def __init__(self, setup: SampleWorkerSetup) -> None:
        self._setup = setup
        self._blob = open_blob(setup.url)

    def run(self, task: SampleUnit, notify: Callable[[Any], None]) -> dict[str, Any]:
        """Write a unit's shards, then its record, which is returned.

        Raises:
            SourceError: a file is missing, damaged as a whole, or has changed.
            DocumentError: strict, and a row is bad.
        """
        del notify
        shards: list[dict[str, Any]] = []
        rejects: list[dict[str, Any]] = []
        counts = Counter[str]()
        pending: list[Row] = []
        size = 0
        for row in read_rows(task, self._setup.features, self._setup.label_field):
            if isinstance(row, Reject):
                if self._setup.strict:
                    raise DocumentError(f"{row.source}: {row.detail}")
                rejects.append(asdict(row))
                continue
            pending.append(row)
            image = row["image"]
            size += len(image) if isinstance(image, bytes) else image.nbytes
            if size >= self._setup.shard_bytes:
                self._write(task, shards, pending, counts)
                pending, size = [], 0
        if pending:
            self._write(task, shards, pending, counts)
        record = {
            "unit": task.key,
            "shards": shards,
            "rejects": rejects,
            "bytes": counts["bytes"],
            "stored": task.nbytes,
        }
        self._blob.put(record_path(task.key), seal(record))
        return record

    def close(self) -> None:
        """Nothing is open."""

    def _write(
        self, unit: SampleUnit, shards: list[dict[str, Any]], rows: list[Row], counts: Counter[str]
    ) -> None:
        setup = self._setup
        name = f"{setup.generation:03d}-{unit.key}-{len(shards):04d}"
        columns = columns_of_rows(rows, setup.features, where=f"unit {unit.key}: ")
        counts["bytes"] += int(row_nbytes(columns).sum())
        entry = write_sample_shard(self._blob, name, columns, setup.features, codec=setup.codec)
        shards.append(entry.to_json())


def make_sample_worker(setup: SampleWorkerSetup) -> SampleBuilder:
    """A worker for units of samples."""
    return SampleBuilder(setup)
