"""Files of images, or of pairs -> a store of samples: begin, continue, append, or nothing to do."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from headrace.errors import ConfigError, DocumentError, ResumeError, WorkerError
from headrace.ingestion.fork_server import start_fork_server
from headrace.ingestion.job.destination import open_destination
from headrace.ingestion.job.summary import IngestSummary
from headrace.ingestion.options import Codec, FieldOptions, JobOptions
from headrace.ingestion.samples.build import SampleBuilder, SampleWorkerSetup, make_sample_worker
from headrace.ingestion.samples.layouts import check_fields, plan_samples
from headrace.ingestion.samples.options import Samples
from headrace.ingestion.samples.pairs import PairSetup, plan_pairs
from headrace.ingestion.samples.plan import SamplePlan, SampleUnit
from headrace.ingestion.units.journal import ROOT, UnitJournal
from headrace.ingestion.units.sealed import RESTART, damaged, hash_of, read_sealed
from headrace.platform import available_cores
from headrace.storage import Blob, LocalBlob
from headrace.store import (
    Array,
    SampleShardEntry,
    commit_samples,
    current_samples,
    features_to_json,
    token_dtype,
)
from headrace.tokens import Tokenizer
from headrace.workers import LocalTransport, Result, WorkerDied, WorkerPool, preload_worker

FORMAT = "samples 1"
"""Version of a job's description; one of another version cannot be continued."""
BYTES_PER_WORKER = 16 << 20
MAX_DEATHS = 3
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleIngest:
    """One call of `ingest` for samples."""

    sources: Sequence[str | os.PathLike[str]]
    out: str | os.PathLike[str]
    samples: Samples
    codec: Codec | None
    workers: int | None
    job: JobOptions
    append: bool
    restart: bool
    progress: Progress | None
    fields: FieldOptions
    """Of layout pairs."""
    tokenizer: Tokenizer | None
    """Of layout pairs."""

    def run(self) -> IngestSummary:
        """See `headrace.ingestion.ingest`."""
        started = time.perf_counter()
        pairs = None
        if self.tokenizer is None:
            plan = plan_samples(self.sources, self.samples)
        else:
            check_fields("pairs", self.samples)
            plan, pairs = plan_pairs(self.sources, self.fields, self.job, self.tokenizer)
        # JPEG and PNG are compressed already; uncompressed blocks are read in place.
        is_compressed = "image" in plan.features and not isinstance(plan.features["image"], Array)
        codec = self.codec or ("none" if is_compressed else "zstd")
        with open_destination(self.out, None, restart=self.restart) as destination:
            return self._run(destination.store, plan, codec, started, pairs)

    def _run(
        self, blob: Blob, plan: SamplePlan, codec: Codec, started: float, pairs: PairSetup | None
    ) -> IngestSummary:
        journal = UnitJournal(blob)
        manifest, half_done = current_samples(blob), journal.job()
        past = [] if manifest is None else list(manifest.extra.get("ingest", ()))
        description: dict[str, Any] = {
            "format": FORMAT,
            "generation": len(past) if self.append else 0,
            "plan": plan.fingerprint(),
            "features": features_to_json(plan.features),
            "codec": codec,
            "shard_bytes": self.samples.shard_bytes,
        }
        if (
            half_done is not None
            and half_done.get("format") == FORMAT
            and half_done["generation"] < len(past)
        ):
            journal.clear()  # killed between the manifest and the deletion of the journal
            half_done = None
        same = [
            one for one in past if all(one.get(k) == v for k, v in description.items() if k != "generation")
        ]
        if manifest is not None and half_done is None and (same or not self.append):
            if not same:
                raise ConfigError(
                    f"{blob.url}: there is a store already, made from other sources or with other options. "
                    f"--append (append=True) adds to it; {RESTART}"
                )
            plan.notes.append("the store was there already, made by the same command")
            return self._summary(blob, plan, same, snapshot=manifest.snapshot, started=started, workers=0)
        if half_done is None:
            journal.clear()
            journal.start(description)
        elif half_done != description:
            names = [k for k, v in description.items() if half_done.get(k) != v]
            raise ResumeError(
                f"{blob.url}: holds a half-done ingest with other sources or options ({', '.join(names)} differ). "
                f"Give the same to continue it; {RESTART}"
            )
        journal.mark_engine_checked()
        records = _records(blob)
        resumed = len(records)
        workers = self._num_workers(blob, plan)
        setup = self._setup(blob, plan, codec, pairs, generation=description["generation"])
        for record in self._build(plan, setup, records, workers):
            records[record["unit"]] = record
        ordered = [records[unit.key] for unit in plan.units]
        _check_rejects(ordered, self.job.max_reject_share)
        snapshot, about = _commit(blob, plan, description, ordered, past, self.tokenizer)
        journal.clear()
        if resumed:
            plan.notes.append(f"continued after {resumed} units of an earlier run")
        return self._summary(
            blob, plan, [about], snapshot=snapshot, started=started, workers=workers, resumed=resumed
        )

    def _num_workers(self, blob: Blob, plan: SamplePlan) -> int:
        size = sum(unit.nbytes for unit in plan.units)
        most = self.workers or max(1, min(available_cores(), size // BYTES_PER_WORKER))
        return 1 if blob.url.startswith("memory://") else min(most, len(plan.units))

    def _setup(
        self, blob: Blob, plan: SamplePlan, codec: str, pairs: PairSetup | None, *, generation: int
    ) -> SampleWorkerSetup:
        return SampleWorkerSetup(
            url=blob.url,
            features=plan.features,
            codec=codec,
            shard_bytes=self.samples.shard_bytes,
            label_field=self.samples.label_field,
            strict=self.job.strict,
            generation=generation,
            pairs=pairs,
        )

    def _build(
        self, plan: SamplePlan, setup: SampleWorkerSetup, done: Mapping[str, Any], workers: int
    ) -> Iterator[dict[str, Any]]:
        """Records of the units that are left, as they are done."""
        left = [unit for unit in plan.units if unit.key not in done]
        total = sum(unit.nbytes for unit in plan.units)
        finished = total - sum(unit.nbytes for unit in left)
        rows = 0
        for record in _run_in_process(setup, left) if workers == 1 else _run_pool(setup, left, workers):
            finished += record["stored"]
            rows += sum(shard["rows"] for shard in record["shards"])
            if self.progress is not None:
                self.progress(min(finished, total), total, f"{rows:,} rows")
            yield record

    def _summary(
        self,
        blob: Blob,
        plan: SamplePlan,
        entries: Sequence[Mapping[str, Any]],
        *,
        snapshot: int,
        started: float,
        workers: int,
        resumed: int = 0,
    ) -> IngestSummary:
        about = entries[-1]
        return IngestSummary(
            out=blob.url,
            snapshot=snapshot,
            documents=about["rows"],
            tokens=about.get("tokens", 0),
            bytes_in=about["bytes"],
            source_bytes=about["source_bytes"],
            store_bytes=about["store_bytes"],
            num_sources=about["sources"],
            num_shards=about["shards"],
            rejects=dict(about["rejected"]),
            dropped={"empty": about["empty"]} if about.get("empty") else {},
            tokenizer="" if self.tokenizer is None else self.tokenizer.name,
            workers=workers,
            wall_s=time.perf_counter() - started,
            units=len(plan.units),
            units_resumed=resumed,
            notes=tuple(plan.notes),
        )


def _run_in_process(setup: SampleWorkerSetup, units: Sequence[SampleUnit]) -> Iterator[dict[str, Any]]:
    with closing(SampleBuilder(setup)) as builder:
        for unit in units:
            yield builder.run(unit, lambda _: None)


def _run_pool(
    setup: SampleWorkerSetup, units: Sequence[SampleUnit], workers: int
) -> Iterator[dict[str, Any]]:
    with start_fork_server() as server:
        server.preload(preload_worker(make_sample_worker, setup))
        pool = WorkerPool(LocalTransport(server), workers)
        for message in pool.run(_SampleQueue(units)):
            if isinstance(message, Result):
                yield message.value


class _SampleQueue:
    """Units in order; see `headrace.workers.TaskQueue`. The error of the first failed unit is raised,
    whatever the number of workers, once none before it is running.
    """

    def __init__(self, units: Sequence[SampleUnit]) -> None:
        self._left = list(reversed(units))
        self._running: dict[int, SampleUnit] = {}
        self._failures: dict[int, Exception] = {}
        self._deaths = Counter[int]()

    @property
    def is_done(self) -> bool:
        return not self._left and not self._running and not self._failures

    def next_task(self, worker: int) -> SampleUnit | None:
        first = min(self._failures, default=None)
        if first is not None and not any(unit.number < first for unit in self._running.values()):
            raise self._failures[first]
        if self._failures or not self._left:
            return None
        self._running[worker] = self._left.pop()
        return self._running[worker]

    def finish(self, worker: int, result: Any) -> None:
        del result, self._running[worker]

    def fail(self, worker: int, error: Exception) -> None:
        self._failures[self._running.pop(worker).number] = error

    def give_back(self, worker: int, died: WorkerDied) -> None:
        unit = self._running.pop(worker, None)
        if unit is None:
            self._deaths[-1] += 1
            number = -1
        else:
            number = unit.number
            self._deaths[number] += 1
            self._left.append(unit)
        if self._deaths[number] >= MAX_DEATHS:
            raise WorkerError(
                f"unit {number}: its worker died {MAX_DEATHS} times, last with {died.reason}. Out of memory? Use fewer "
                "workers. What is done is kept: run the same command again"
            )


def _records(blob: Blob) -> dict[str, dict[str, Any]]:
    """Records of units that are done."""
    records = {}
    for name in blob.list(f"{ROOT}/units/"):
        if name.endswith(".json"):
            record = dict(read_sealed(blob, name))
            if name != f"{ROOT}/units/{record.get('unit')}.json":
                raise damaged(blob, name, f"it is the record of unit {record.get('unit')}")
            records[str(record["unit"])] = record
    return records


def _check_rejects(records: Sequence[Mapping[str, Any]], max_reject_share: float) -> None:
    rows = sum(shard["rows"] for record in records for shard in record["shards"])
    rejects = [reject for record in records for reject in record["rejects"]]
    if rejects and (not rows or len(rejects) > max_reject_share * (rows + len(rejects))):
        first = rejects[0]
        raise DocumentError(
            f"{first['source']}: {first['detail']} [{len(rejects):,} of {rows + len(rejects):,} rows are bad; "
            f"max_reject_share allows {max_reject_share:g} of them]"
        )


def _commit(
    blob: Blob,
    plan: SamplePlan,
    description: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    past: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer | None,
) -> tuple[int, dict[str, Any]]:
    """Write the rejects, then the manifest; returns its snapshot and its entry for the job."""
    generation = int(description["generation"])
    entries = [SampleShardEntry.from_json(shard) for record in records for shard in record["shards"]]
    keep, prefix = {entry.name for entry in entries}, f"data/{generation:03d}-"
    for name in blob.list("data/"):
        if name.startswith(prefix) and name.removeprefix("data/").split(".", 1)[0] not in keep:
            blob.delete(name)
    if isinstance(blob, LocalBlob):
        for left in (blob.root / "data").glob(".*.tmp"):
            left.unlink(missing_ok=True)
    rejects = [reject for record in records for reject in record["rejects"]]
    path = "rejects.jsonl" if generation == 0 else f"rejects-{generation:03d}.jsonl"
    hashes = {}
    if rejects:
        data = b"".join(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE) for reject in rejects)
        blob.put(path, data)
        hashes[path] = hash_of(data)
    else:
        blob.delete(path)
    about = {
        **description,
        "rows": sum(entry.rows for entry in entries),
        "bytes": sum(record["bytes"] for record in records),
        "source_bytes": sum(record["stored"] for record in records),
        "sources": sum(len(unit.items) for unit in plan.units),
        "shards": len(entries),
        "store_bytes": sum(entry.nbytes for entry in entries),
        "rejected": dict(sorted(Counter(reject["reason"] for reject in rejects).items())),
        "hashes": hashes,
        **plan.extra,
    }
    if tokenizer is not None:
        nbytes = np.dtype(token_dtype(tokenizer.vocab_size)).itemsize
        # A row has 4 bytes of offsets in each column, and its ids.
        about["tokens"] = (about["bytes"] - 4 * len(plan.features) * about["rows"]) // nbytes
        about["empty"] = sum(record.get("empty", 0) for record in records)
    snapshot = commit_samples(
        blob,
        entries,
        features=plan.features,
        append=generation > 0,
        extra={"ingest": [*(past if generation else ()), about]},
        tokenizer=tokenizer,
    )
    return snapshot, about
