"""A job and a place -> a store: begin, go on, add, or find that there is nothing to do."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.errors import ConfigError, DocumentError, SpaceError
from headrace.ingestion.crew.engines import EngineMismatchError, run_units, sketch_units
from headrace.ingestion.crew.nursery import Nursery
from headrace.ingestion.job.dedup import mark_repeated
from headrace.ingestion.job.finish import check_documents, commit, lines_before, placed, sentence
from headrace.ingestion.job.job import (
    Job,
    Place,
    check_fits,
    check_place,
    check_same_job,
    check_same_store,
    past_jobs,
)
from headrace.ingestion.job.lock import only_writer
from headrace.ingestion.job.meter import Meter, Progressing
from headrace.ingestion.job.summary import IngestSummary, summary_of_job, summary_of_store
from headrace.ingestion.units import seekpoints
from headrace.ingestion.units.journal import LOCK, ROOT, Journal
from headrace.ingestion.units.plan import plan_tracks
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import Schedule
from headrace.ingestion.work.intake import StrictStop
from headrace.storage import Blob, LocalBlob, open_blob
from headrace.store import token_dtype
from headrace.store.commit import current_manifest
from headrace.store.format import MANIFEST
from headrace.tokens import Tokenizer

BLOCK_BYTES = 256 << 10
"""Tokens in a block, unpacked."""


@dataclass(kw_only=True)
class Conduct:
    """One call of `ingest`."""

    place: Place
    engine: str
    started: float
    progress: Progressing | None
    strict: bool
    nursery: Nursery | None
    """Started, and told nothing yet."""
    notes: list[str] = field(default_factory=list)
    computed_by: str = ""

    @property
    def blob(self) -> Blob:
        """The store's place."""
        return self.place.store

    def do(self, job: Job, *, workers: int, append: bool, max_reject_share: float) -> IngestSummary:
        """Begin, go on, add, or find that there is nothing to do."""
        journal = Journal(self.blob)
        manifest = current_manifest(self.blob)
        past: list[dict[str, Any]] = []
        half_done = journal.job()
        if manifest is not None:
            past = past_jobs(self.blob, manifest)
            if half_done is not None and half_done["generation"] < len(past):
                journal.clear()  # killed between the manifest and the end
                half_done = None
            if append:
                check_fits(self.blob, manifest, job)
                known = {source["fingerprint"] for one in past for source in one["sources"]}
                new = tuple(source for source in job.sources if source.fingerprint not in known)
                if len(new) < len(job.sources):
                    self.notes.append(f"{len(job.sources) - len(new)} sources were in the store already")
                job = replace(job, sources=new, generation=len(past))
                if not new:
                    return self._summed(job, (), snapshot=manifest.snapshot)
            elif half_done is None or half_done["generation"] == 0:
                check_same_store(self.blob, past[-1] if len(past) == 1 else _joined(past), job.to_json())
                self.notes.append("the store was there already, made by the same command")
                return summary_of_store(
                    job,
                    self.blob.url,
                    manifest.extra["ingest"],
                    snapshot=manifest.snapshot,
                    wall_s=time.perf_counter() - self.started,
                    notes=self.notes,
                )
        if half_done is None:
            journal.clear()
            journal.start(job.to_json())
        else:
            check_same_job(self.blob, half_done, job.to_json())
        records = journal.records()
        before = {record.key for record in records}
        if workers >= seekpoints.MIN_WORKERS:
            self._find_seek_points(job)
        if job.options.dedup is not None and not journal.is_marked:
            self._mark_repeated(job, past, workers)
        schedule, records = self._units(job, records, workers)
        records = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
        resumed = sum(record.key in before for record in records)
        if resumed:
            self.notes.append(f"went on after {resumed} units of an earlier run")
        check_documents(job, self.blob, records, max_reject_share)
        snapshot = commit(job, self.place, records)
        journal.clear()
        return self._summed(job, records, snapshot=snapshot, resumed=resumed, workers=workers)

    def _find_seek_points(self, job: Job) -> None:
        for source in job.sources:
            if seekpoints.may_have(source, job.options):
                if self.progress is not None:
                    self.progress(0, None, f"finding places to start from in {source.url}")
                seekpoints.find(source, self.blob)

    def _summed(
        self, job: Job, records: Sequence[UnitRecord], *, snapshot: int, resumed: int = 0, workers: int = 0
    ) -> IngestSummary:
        return summary_of_job(
            job,
            self.blob.url,
            records,
            snapshot=snapshot,
            computed_by=self.computed_by,
            resumed=resumed,
            workers=workers,
            wall_s=time.perf_counter() - self.started,
            notes=self.notes,
        )

    def _mark_repeated(self, job: Job, past: Sequence[Mapping[str, Any]], workers: int) -> None:
        """Dedup's first pass over all sources."""
        journal = Journal(self.blob)
        records = journal.sketched()
        schedule = Schedule(plan_tracks(job.sources, job.options), records)
        meter = Meter(self.progress, total=sum(source.nbytes for source in job.sources), doing="comparing")
        for record in records:
            meter.done(record)

        self._strictly(
            lambda: sketch_units(
                job,
                self.place,
                schedule,
                workers=workers,
                engine=self.engine,
                strict=self.strict,
                heard=self._listen(meter, records),
            ),
            records,
        )
        ordered = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
        mark_repeated(job, self.blob, ordered, past)
        journal.mark()

    def _listen(self, meter: Meter, records: list[UnitRecord]) -> Callable[[str, Any], None]:
        """What workers say -> the meter, the records of what is done, and which engine was proven."""

        def heard(kind: str, value: Any) -> None:
            if kind == "progress":
                meter.passed(value)
            elif kind == "done":
                records.append(value)
            elif kind == "proven":
                self.computed_by = value
                Journal(self.blob).prove()

        return heard

    def _strictly(self, do: Callable[[], None], records: Sequence[UnitRecord]) -> None:
        """Do it; a bad document that stops the job is named by its place in the whole file."""
        try:
            do()
        except StrictStop as stop:
            reject = placed(stop.reject, lines_before(records, stop.track, stop.part))
            raise DocumentError(sentence(reject)) from None

    def _units(self, job: Job, records: list[UnitRecord], workers: int) -> tuple[Schedule, list[UnitRecord]]:
        """Do what is left; the schedule then knows which records belong to the store."""
        nursery, self.nursery = self.nursery, None
        journal = Journal(self.blob)
        tracks = plan_tracks(job.sources, job.options)
        schedule = Schedule(tracks, records)
        meter = Meter(self.progress, total=sum(source.nbytes for source in job.sources))
        for record in records:
            meter.done(record)

        try:
            self._strictly(
                lambda: run_units(
                    job,
                    self.place,
                    schedule,
                    workers=workers,
                    engine=self.engine,
                    strict=self.strict,
                    heard=self._listen(meter, records),
                    nursery=nursery,
                ),
                records,
            )
        except EngineMismatchError as error:
            journal.forget_units()
            self.notes.append(
                f"the fast tokenizer engine is not exact on this corpus ({error}); the reference is used instead"
            )
            return self._units(replace(job, engine="reference"), [], workers)
        meter.finish()
        return schedule, records


def _joined(past: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several jobs that made one store, as one."""
    return {**past[0], "sources": [source for one in past for source in one["sources"]]}


def block_tokens_for(blob: Blob, tokenizer: Tokenizer) -> int:
    """Those of the store that is there, else 256 KiB: 64 Ki tokens of 2 bytes made stores 3 % larger."""
    manifest = current_manifest(blob)
    return (
        BLOCK_BYTES // token_dtype(tokenizer.vocab_size).itemsize
        if manifest is None
        else manifest.block_tokens
    )


@contextmanager
def places(
    out: str | os.PathLike[str], validation_out: str | os.PathLike[str] | None, *, restart: bool
) -> Iterator[Place]:
    """Where a store is made, for nobody else meanwhile; a full device is a clear line.

    Raises:
        ConfigError: a file, a folder of something else, or another job is at work there.
    """
    blob = open_blob(out)
    place = Place(store=blob, validation=None if validation_out is None else open_blob(validation_out))
    blobs = [blob] if place.validation is None else [blob, place.validation]
    for one in blobs:
        if isinstance(one, LocalBlob) and one.root.exists() and not one.root.is_dir():
            raise ConfigError(f"{one.root}: a file; wanted a directory, new or empty or a store")
    with ExitStack() as held:
        for one in blobs:
            held.enter_context(_only_writer(one))
        held.enter_context(_space_errors(blob))
        for one in reversed(blobs):
            if restart:
                _forget(one)
            check_place(one)
        yield place


def _only_writer(blob: Blob) -> AbstractContextManager[None]:
    return only_writer(blob.root / LOCK) if isinstance(blob, LocalBlob) else nullcontext()


@contextmanager
def _space_errors(blob: Blob) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = (
                "a file would be larger than is allowed (ulimit -f)"
                if error.errno == errno.EFBIG
                else ("no space left on the device")
            )
            raise SpaceError(
                f"{error.filename or blob.url}: {why}. What is done is kept: "
                f"free some room and run the same command again"
            ) from error
        raise


def _forget(blob: Blob) -> None:
    """Delete a store, or a half-done one: first what makes it a store."""
    if current_manifest(blob) is None and Journal(blob).job() is None:
        return
    blob.delete(MANIFEST)
    Journal(blob).clear()
    for name in blob.list():
        if not name.startswith(f"{ROOT}/"):
            blob.delete(name)
