"""A job and its destination -> a store: begin, continue, append, or find that there is nothing to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.errors import DocumentError
from headrace.ingestion.build.document_reader import StrictError
from headrace.ingestion.distribute import EngineMismatchError, Execution, run_units, sketch_units
from headrace.ingestion.job.commit import check_documents, commit, describe_reject, lines_before, with_line
from headrace.ingestion.job.dedup import mark_duplicates
from headrace.ingestion.job.destination import Destination
from headrace.ingestion.job.job import (
    IngestJob,
    check_fits,
    check_readable,
    check_same_job,
    check_same_store,
    differences,
    past_jobs,
)
from headrace.ingestion.job.progress import ProgressCallback, ProgressMeter
from headrace.ingestion.job.seen import check_done_chunks, split_new
from headrace.ingestion.job.summary import IngestSummary, summary_of_job, summary_of_store, total
from headrace.ingestion.units import seekpoints
from headrace.ingestion.units.journal import UnitJournal
from headrace.ingestion.units.plan import plan_tracks
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import UnitSchedule
from headrace.storage import Blob
from headrace.store import current_manifest
from headrace.workers import ForkServer


@dataclass(kw_only=True)
class IngestRunner:
    """Runs one call of `ingest`."""

    destination: Destination
    execution: Execution
    started: float
    progress: ProgressCallback | None
    server: ForkServer | None
    """Started, and not told yet what to load."""
    notes: list[str] = field(default_factory=list)
    computed_by: str = ""

    @property
    def blob(self) -> Blob:
        """The store's place."""
        return self.destination.store

    def run(self, job: IngestJob, *, append: bool, max_reject_share: float) -> IngestSummary:
        """Begin, continue or append; a store that is complete is left as it is."""
        journal = UnitJournal(self.blob)
        manifest = current_manifest(self.blob)
        past: list[dict[str, Any]] = []
        half_done = journal.job()
        if half_done is not None:
            check_readable(self.blob, half_done)
        if manifest is not None:
            past = past_jobs(self.blob, manifest)
            if half_done is not None and half_done["generation"] < len(past):
                journal.clear()  # killed between the manifest and the deletion of the journal
                half_done = None
            if append:
                check_fits(self.blob, manifest, job)
                new, notes = split_new([source for one in past for source in one["sources"]], job.sources)
                self.notes += notes
                job = replace(job, sources=new, generation=len(past))
                if not new:
                    journal.clear()
                    return self._summary(job, (), snapshot=manifest.snapshot, workers=0)
            elif half_done is None or half_done["generation"] == 0:
                check_same_store(self.blob, past[-1] if len(past) == 1 else _joined(past), job)
                if half_done is None:
                    journal.clear()  # what a run that was killed while it cleared the journal left
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
        elif not journal.records() and not journal.sketched() and differences(half_done, job, strictly=True):
            journal.clear()  # nothing was done, for example since a field's name was wrong
            journal.start(job.to_json())
        else:
            check_same_job(self.blob, half_done, job)
            check_done_chunks(half_done["sources"], job.sources, journal.records())
        return self._run_job(job, past, max_reject_share)

    def _run_job(
        self, job: IngestJob, past: Sequence[Mapping[str, Any]], max_reject_share: float
    ) -> IngestSummary:
        """Do the units that are left, then commit."""
        journal = UnitJournal(self.blob)
        records = journal.records()
        before = {record.key for record in records}
        if self.execution.workers >= seekpoints.MIN_WORKERS:
            self._find_seek_points(job)
        if job.options.operators.dedup != "none" and journal.duplicates() is None:
            self._mark_duplicates(job, past)
        schedule, records = self._tokenize(job, records)
        records = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
        resumed = sum(record.key in before for record in records)
        if resumed:
            self.notes.append(f"continued after {resumed} units of an earlier run")
        check_documents(job, self.blob, records, max_reject_share)
        found = total(record.kept for record in records)
        self.notes += [
            f"no document has a value in the kept field {name!r}: is this its name? The store has nulls there"
            for name in job.options.fields.keep
            if not found[name]
        ]
        snapshot = commit(job, self.destination, records)
        journal.clear()
        return self._summary(job, records, snapshot=snapshot, resumed=resumed, workers=self.execution.workers)

    def _find_seek_points(self, job: IngestJob) -> None:
        for source in job.sources:
            if seekpoints.may_have(source, job.options):
                if self.progress is not None:
                    self.progress(0, None, f"finding places to start from in {source.url}")
                seekpoints.find(source, self.blob)

    def _summary(
        self, job: IngestJob, records: Sequence[UnitRecord], *, snapshot: int, workers: int, resumed: int = 0
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

    def _mark_duplicates(self, job: IngestJob, past: Sequence[Mapping[str, Any]]) -> None:
        """The first pass of deduplication, over all sources."""
        journal = UnitJournal(self.blob)
        records = journal.sketched()
        schedule = UnitSchedule(
            plan_tracks(job.sources, job.options, skip_damaged=self.execution.limits.skip_damaged), records
        )
        meter = ProgressMeter(
            self.progress, total=sum(source.nbytes for source in job.sources), phase="comparing"
        )
        for record in records:
            meter.add_resumed(record)
        listen = self._listener(meter, records)
        self._name_bad_document(
            lambda: sketch_units(job, self.destination, schedule, self.execution, listen=listen), records
        )
        ordered = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
        journal.mark_duplicates(mark_duplicates(job, self.blob, ordered, past))

    def _tokenize(self, job: IngestJob, records: list[UnitRecord]) -> tuple[UnitSchedule, list[UnitRecord]]:
        """Do what is left; the schedule then knows which records belong to the store."""
        server, self.server = self.server, None
        schedule = UnitSchedule(
            plan_tracks(job.sources, job.options, skip_damaged=self.execution.limits.skip_damaged), records
        )
        meter = ProgressMeter(self.progress, total=sum(source.nbytes for source in job.sources))
        for record in records:
            meter.add_resumed(record)
        listen = self._listener(meter, records)
        try:
            self._name_bad_document(
                lambda: run_units(
                    job, self.destination, schedule, self.execution, listen=listen, server=server
                ),
                records,
            )
        except EngineMismatchError as error:
            UnitJournal(self.blob).forget_units()
            self.notes.append(
                f"the fast tokenizer engine is not exact on this corpus ({error}); the reference is used instead"
            )
            return self._tokenize(replace(job, engine="reference"), [])
        meter.finish()
        return schedule, records

    def _listener(self, meter: ProgressMeter, records: list[UnitRecord]) -> Callable[[str, Any], None]:
        """Messages of the workers -> the meter, the list of records, and the engine that was checked."""

        def listen(kind: str, value: Any) -> None:
            if kind == "progress":
                meter.add(value)
            elif kind == "done":
                records.append(value)
            elif kind == "checked":
                self.computed_by = value
                UnitJournal(self.blob).mark_engine_checked()

        return listen

    def _name_bad_document(self, run: Callable[[], None], records: Sequence[UnitRecord]) -> None:
        """Run it; a bad document that stops the job is named by its line in the whole file."""
        try:
            run()
        except StrictError as error:
            reject = with_line(error.reject, lines_before(records, error.track, error.part))
            raise DocumentError(describe_reject(reject)) from None


def _joined(past: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several jobs that made one store, as one."""
    return {**past[0], "sources": [source for one in past for source in one["sources"]]}
