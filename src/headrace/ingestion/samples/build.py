"""A unit -> its shards and its record, on whichever worker; the same bytes on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.errors import DocumentError
from headrace.ingestion.document import Reject
from headrace.ingestion.samples.pairs import PairReader, PairSetup
from headrace.ingestion.samples.plan import SampleUnit
from headrace.ingestion.samples.rows import Row, read_rows
from headrace.ingestion.units.journal import record_path
from headrace.ingestion.units.sealed import seal
from headrace.storage import open_blob
from headrace.store import (
    Columns,
    Feature,
    columns_of_rows,
    concatenate_columns,
    row_nbytes,
    write_sample_shard,
)


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
    pairs: PairSetup | None = None
    """Of units of pairs."""


class SampleBuilder:
    """A worker that turns units into shards; see `headrace.workers.Worker`."""

    def __init__(self, setup: SampleWorkerSetup) -> None:
        self._setup = setup
        self._blob = open_blob(setup.url)
        self._pairs = None if setup.pairs is None else PairReader(setup.pairs)

    def run(self, task: SampleUnit, notify: Callable[[Any], None]) -> dict[str, Any]:
        """Write a unit's shards, then its record, which is returned.

        Raises:
            SourceError: a file is missing, damaged as a whole, or has changed.
            DocumentError: strict, and a row is bad.
        """
        del notify
        shards: list[dict[str, Any]] = []
        counts = Counter[str]()
        if self._pairs is not None:
            rejects = self._write_pairs(self._pairs, task, shards, counts)
        else:
            rejects = self._write_images(task, shards, counts)
        record = {
            "unit": task.key,
            "shards": shards,
            "rejects": rejects,
            "bytes": counts["bytes"],
            "stored": task.nbytes,
        }
        if counts["empty"]:
            record["empty"] = counts["empty"]
        self._blob.put(record_path(task.key), seal(record))
        return record

    def close(self) -> None:
        """Close the open file of pairs."""
        if self._pairs is not None:
            self._pairs.close()

    def _write_images(
        self, task: SampleUnit, shards: list[dict[str, Any]], counts: Counter[str]
    ) -> list[dict[str, Any]]:
        """Write the shards of a unit; returns its rejects."""
        rejects: list[dict[str, Any]] = []
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
                self._write(task, shards, self._columns(task, pending), counts)
                pending, size = [], 0
        if pending:
            self._write(task, shards, self._columns(task, pending), counts)
        return rejects

    def _write_pairs(
        self, reader: PairReader, task: SampleUnit, shards: list[dict[str, Any]], counts: Counter[str]
    ) -> list[dict[str, Any]]:
        """Write the shards of a unit of pairs; returns its rejects."""
        pending: list[Columns] = []
        size = 0
        for columns in reader.read(task):
            pending.append(columns)
            size += int(row_nbytes(columns).sum())
            if size >= self._setup.shard_bytes:
                self._write(task, shards, concatenate_columns(pending), counts)
                pending, size = [], 0
        if pending:
            self._write(task, shards, concatenate_columns(pending), counts)
        counts["empty"] = reader.empty
        return [asdict(reject) for reject in reader.rejects]

    def _columns(self, unit: SampleUnit, rows: list[Row]) -> Columns:
        return columns_of_rows(rows, self._setup.features, where=f"unit {unit.key}: ")

    def _write(
        self, unit: SampleUnit, shards: list[dict[str, Any]], columns: Columns, counts: Counter[str]
    ) -> None:
        setup = self._setup
        name = f"{setup.generation:03d}-{unit.key}-{len(shards):04d}"
        counts["bytes"] += int(row_nbytes(columns).sum())
        entry = write_sample_shard(self._blob, name, columns, setup.features, codec=setup.codec)
        shards.append(entry.to_json())


def make_sample_worker(setup: SampleWorkerSetup) -> SampleBuilder:
    """A worker for units of samples."""
    return SampleBuilder(setup)
