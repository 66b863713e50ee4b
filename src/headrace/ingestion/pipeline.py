"""A job and its destination -> a store: begin, continue, append, or find that there is nothing to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.errors import DocumentError, ResumeError
from headrace.ingestion.build.document_reader import StrictError
from headrace.ingestion.build.tokenizer_check import engine_mismatch
from headrace.ingestion.distribute import EngineMismatchError, Execution, run_units, sketch_units
from headrace.ingestion.job.commit import check_documents, commit, describe_reject, lines_before, with_line
from headrace.ingestion.job.dedup import mark_duplicates
from headrace.ingestion.job.destination import Destination, share_in_turn
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
from headrace.ingestion.units.plan import Track, plan_tracks
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import UnitSchedule
from headrace.ingestion.units.share import Share, words_of
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
    share: Share | None = None
    """The part of the job that this call does, or its end."""
    notes: list[str] = field(default_factory=list)
    computed_by: str = ""

    @property
    def blob(self) -> Blob:
        """The store's place."""
        return self.destination.store

    def run(self, job: IngestJob, *, append: bool, max_reject_share: float) -> IngestSummary:
        """Begin, continue or append; a store that is complete is left as it is."""
        with nullcontext() if self._own_share is None else share_in_turn(self.blob):
            begun = self._begin(job, append=append)
            if isinstance(begun, IngestSummary):
                return begun
            job, past = begun
            if self._own_share is not None:
                self._check_engine(job)
        engine = UnitJournal(self.blob).checked_engine()
        if engine == "reference":
            job = replace(job, engine="reference")
        if self.share is not None and self.share.index is None:
            return self._finish_shares(job, max_reject_share)
        return self._run_job(job, past, max_reject_share)

    @property
    def _own_share(self) -> Share | None:
        """The share that this call does; None for a whole job and for the end of one."""
        return None if self.share is None or self.share.index is None else self.share

    def _begin(
        self, job: IngestJob, *, append: bool
    ) -> IngestSummary | tuple[IngestJob, list[dict[str, Any]]]:
        """The job to do and the earlier ones, its description written; a summary where nothing is to be done."""
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
            if self.share is not None and self.share.index is None:
                raise ResumeError(
                    f"{self.blob.url}: no share of an ingest was run there. Run them first: --share 0/N"
                )
            journal.clear(keep_locks=self._own_share is not None)
            journal.start(job.to_json())
        elif (
            self.share is None
            and not journal.records()
            and not journal.sketched()
            and differences(half_done, job, strictly=True)
        ):
            journal.clear()  # nothing was done, for example since a field's name was wrong
            journal.start(job.to_json())
        else:
            check_same_job(self.blob, half_done, job)
            check_done_chunks(half_done["sources"], job.sources, journal.records())
        return job, past

    def _check_engine(self, job: IngestJob) -> None:
        """Decide once for all shares which engine computes the ids, before any unit is done."""
        journal = UnitJournal(self.blob)
        if journal.checked_engine() is None:
            mismatch = engine_mismatch(job.computing_tokenizer(), job.sources, job.options)
            journal.mark_engine_checked("fast" if mismatch is None else "reference")

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
            waits_for = self._mark_duplicates(job, past)
            if waits_for:
                self.notes.append(
                    f"share {self.share}: the first of two passes of deduplication is done. Run the same command again "
                    f"when all shares have done it; these have not yet: {waits_for}"
                )
                return self._summary(job, (), snapshot=0, workers=self.execution.workers)
        schedule, records = self._tokenize(job, records)
        if self._own_share is not None:
            records = [record for record in records if schedule.is_own(record)]
        records = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
        resumed = sum(record.key in before for record in records)
        if resumed:
            self.notes.append(f"continued after {resumed} units of an earlier run")
        if self._own_share is not None:
            count = self._own_share.count
            self.notes.append(
                f"share {self.share} is done; --share finish/{count} makes the store of all {count}"
            )
            return self._summary(job, records, snapshot=0, resumed=resumed, workers=self.execution.workers)
        return self._commit(job, records, max_reject_share, resumed=resumed)

    def _finish_shares(self, job: IngestJob, max_reject_share: float) -> IngestSummary:
        """Make the store of what all shares have done.

        Raises:
            ResumeError: some have not; names them.
        """
        assert self.share is not None
        records = UnitJournal(self.blob).records()
        tracks = self._tracks(job)
        missing = self.share.missing(tracks, job.sources, records)
        if missing:
            raise ResumeError(
                f"{self.blob.url}: {len(missing)} of {self.share.count} shares are not done: "
                f"--share {words_of(missing, self.share.count)}. Run them (again), then --share {self.share}"
            )
        belongs = UnitSchedule(tracks, records).belongs
        records = sorted(filter(belongs, records), key=lambda record: record.key)
        return self._commit(job, records, max_reject_share, resumed=len(records))

    def _commit(
        self, job: IngestJob, records: Sequence[UnitRecord], max_reject_share: float, *, resumed: int
    ) -> IngestSummary:
        check_documents(job, self.blob, records, max_reject_share)
        found = total(record.kept for record in records)
        self.notes += [
            f"no document has a value in the kept field {name!r}: is this its name? The store has nulls there"
            for name in job.options.fields.keep
            if not found[name]
        ]
        if removed := sum(record.removed_pieces for record in records):
            self.notes.append(
                f"{removed:,} {job.options.operators.dedup} of an earlier document were removed"
            )
        snapshot = commit(job, self.destination, records)
        UnitJournal(self.blob).clear()
        return self._summary(job, records, snapshot=snapshot, resumed=resumed, workers=self.execution.workers)

    def _tracks(self, job: IngestJob) -> list[Track]:
        return plan_tracks(job.sources, job.options, skip_damaged=self.execution.limits.skip_damaged)

    def _schedule(self, job: IngestJob, done: Sequence[UnitRecord]) -> UnitSchedule:
        tracks = self._tracks(job)
        return (
            UnitSchedule(tracks, done)
            if self._own_share is None
            else self._own_share.schedule(tracks, job.sources, done)
        )

    def _meter(self, job: IngestJob, phase: str = "starting") -> ProgressMeter:
        nbytes = sum(source.nbytes for source in job.sources)
        if self._own_share is not None:
            nbytes = -(-nbytes // self._own_share.count)
        return ProgressMeter(self.progress, total=nbytes, phase=phase)

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

    def _mark_duplicates(self, job: IngestJob, past: Sequence[Mapping[str, Any]]) -> str:
        """The first pass of deduplication, over all sources, or over a share of them.

        Returns:
            Shares that have not done it, in words; "" where duplicates are marked.

        Raises:
            ResumeError: this share has done it before, and others have not.
        """
        journal = UnitJournal(self.blob)
        records = journal.sketched()
        schedule = self._schedule(job, records)
        was_done = schedule.is_done
        meter = self._meter(job, "comparing")
        for record in records:
            if schedule.is_own(record):
                meter.add_resumed(record)
        listen = self._listener(meter, records)
        self._name_bad_document(
            lambda: sketch_units(job, self.destination, schedule, self.execution, listen=listen), records
        )
        if self._own_share is None:
            self._write_duplicates(job, past, records)
            return ""
        with share_in_turn(self.blob):
            if journal.duplicates() is not None:
                return ""
            records = journal.sketched()
            missing = self._own_share.missing(self._tracks(job), job.sources, records)
            if not missing:
                self._write_duplicates(job, past, records)
                return ""
        waits_for = words_of(missing, self._own_share.count)
        if was_done:
            raise ResumeError(
                f"{self.blob.url}: the first of two passes of deduplication is not done by these shares: {waits_for}. "
                f"Run them, then all shares again"
            )
        return waits_for

    def _write_duplicates(
        self, job: IngestJob, past: Sequence[Mapping[str, Any]], records: Sequence[UnitRecord]
    ) -> None:
        belongs = UnitSchedule(self._tracks(job), records).belongs
        ordered = sorted(filter(belongs, records), key=lambda record: record.key)
        UnitJournal(self.blob).mark_duplicates(mark_duplicates(job, self.blob, ordered, past))

    def _tokenize(self, job: IngestJob, records: list[UnitRecord]) -> tuple[UnitSchedule, list[UnitRecord]]:
        """Do what is left; the schedule then knows which records belong to the store."""
        server, self.server = self.server, None
        schedule = self._schedule(job, records)
        meter = self._meter(job)
        for record in records:
            if schedule.is_own(record):
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
            if self._own_share is not None:
                raise  # decided before for all shares
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
                if self._own_share is None:
                    UnitJournal(self.blob).mark_engine_checked()

        return listen

    def _name_bad_document(self, run: Callable[[], None], records: Sequence[UnitRecord]) -> None:
        """Run it; a bad document that stops the job is named by its line in the whole file."""
        try:
            run()
        except StrictError as error:
            before = sum(record.track == error.track and record.part < error.part for record in records)
            reject = with_line(error.reject, lines_before(records, error.track, error.part))
            if before < error.part:
                reject["line"] = None  # units before it are other shares'
            raise DocumentError(describe_reject(reject)) from None


def _joined(past: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several jobs that made one store, as one."""
    return {**past[0], "sources": [source for one in past for source in one["sources"]]}
