"""Files, globs, directories, URLs -> a store: the job from its start to the manifest."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from headrace.errors import ConfigError, DocumentError, SpaceError
from headrace.ingest import seekpoints
from headrace.ingest.dedup import mark_repeated
from headrace.ingest.engines import EngineMismatchError, run_units, sketch_units
from headrace.ingest.fields import Fields, TextMode
from headrace.ingest.finish import check_documents, commit, lines_before, placed, sentence
from headrace.ingest.intake import StrictStop
from headrace.ingest.job import (
    Job,
    Place,
    check_fits,
    check_place,
    check_same_job,
    check_same_store,
    past_jobs,
)
from headrace.ingest.journal import LOCK, ROOT, Journal
from headrace.ingest.lock import only_writer
from headrace.ingest.meter import Meter, Progressing
from headrace.ingest.operators.filters import Filters
from headrace.ingest.operators.minhash import MinHash
from headrace.ingest.options import SHARD_TEXT_BYTES, Options
from headrace.ingest.plan import plan_tracks, shard_bytes_for, text_bytes_of
from headrace.ingest.record import UnitRecord
from headrace.ingest.schedule import Schedule
from headrace.ingest.sources import find_sources
from headrace.ingest.summary import IngestSummary, summary_of_job, summary_of_store
from headrace.store import Blob, open_blob, token_dtype
from headrace.store.blob import LocalBlob, MemoryBlob
from headrace.store.commit import current_manifest
from headrace.store.format import MANIFEST
from headrace.tokens import Tokenizer, load_tokenizer

BYTES_PER_WORKER = 16 << 20
"""Sources a process is worth starting for; only the default number of workers depends on it."""
BLOCK_BYTES = 256 << 10
"""Tokens in a block, unpacked."""


def ingest(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer = "byte",
    codec: str = "zstd",
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    text_field: str = "text",
    text_mode: TextMode = "auto",
    keep: Sequence[str] = (),
    strict: bool = False,
    max_reject_share: float = 0.05,
    max_document_bytes: int = 16 << 20,
    normalise: bool = False,
    filters: Filters | None = None,
    sample: float = 1.0,
    dedup: Literal["exact", "minhash"] | MinHash | None = None,
    validation_share: float = 0.0,
    validation_out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    shard_text_bytes: int | None = None,
    block_tokens: int | None = None,
    append: bool = False,
    restart: bool = False,
    progress: Progressing | None = None,
) -> IngestSummary:
    """Turn raw text into a store, as a job that can be killed at any moment and goes on where it was.

    The bytes of the store depend on sources, options and tokenizer alone: not on the number of workers, not on
    how often the job was interrupted. Until the manifest is written, last of all, there is no store.

    Args:
        sources: files, globs, directories, URLs (s3, gs, az, http(s)) of .txt, .jsonl, .json, .csv, .tsv,
            .parquet, Arrow or Feather, Hugging Face datasets directories, WebDataset tars; plain, or packed
            by gzip, zstd, xz, bzip2 or lz4, which is told by the first bytes.
        out: the store: a directory or a URL.
        tokenizer: byte, gpt2, cl100k_base, o200k_base, a path (see `load_tokenizer`), or a tokenizer.
        codec: none, lz4 or zstd.
        workers: processes; None takes the cores, and fewer for small sources.
        engine: local, or ray: the same units on a Ray cluster.
        text_field: field or column with the text; a dotted name looks inside objects.
        text_mode: what a document of a text file is: file, line, block (separated by blank lines), or auto:
            a file up to 1 MiB is one document, a longer one is cut at blank lines.
        keep: other fields, kept as metadata of each document (as strings; anything else as JSON).
        strict: stop at the first bad document instead of listing it.
        max_reject_share: fail if more than this share of the documents is bad.
        max_document_bytes: longer documents are rejected.
        normalise: bring text to NFC and line ends to a newline.
        filters: drop short, symbol-ridden or repetitive documents; `Filters()` has mild limits.
        sample: take this share of the documents, chosen by their text.
        dedup: drop documents that stood before in the order of the sources: equal ones (exact), or near ones
            (minhash, or a `MinHash` with its threshold); sources are then read twice.
        validation_share: put this share of the documents, chosen by their text, into a second store.
        validation_out: that store.
        seed: of the sample and the split.
        shard_text_bytes: text in a shard, and in a unit of work; None takes 16 to 64 MiB, more for more sources.
        block_tokens: tokens in a block of a shard; None takes the store's own, or 256 KiB of tokens.
        append: add files that the store has not seen; what is there keeps its rows.
        restart: forget a half-done job or a store at `out`, and start over.
        progress: called with (source bytes done, source bytes in all, a note).

    Returns:
        Counts of the whole job, and where the time went.

    Raises:
        SourceError: a source is missing, truncated, not what its name says, or there are no documents.
        DocumentError: strict and a document is bad, or too many are.
        TokenizerError: the tokenizer cannot be found or trusted.
        ConfigError: an option makes no sense, or `out` is taken.
        ResumeError: a half-done job at `out` was asked for something else.
        SpaceError: the device is full; run the same command again when there is room.
    """
    started = time.perf_counter()
    options = Options(
        fields=Fields(text=text_field, keep=tuple(keep), max_bytes=max_document_bytes),
        text_mode=text_mode,
        codec=codec,
        block_tokens=1 if block_tokens is None else block_tokens,
        shard_text_bytes=SHARD_TEXT_BYTES if shard_text_bytes is None else shard_text_bytes,
        normalise=normalise,
        filters=filters,
        sample=sample,
        dedup=MinHash() if dedup == "minhash" else dedup,
        validation_share=validation_share,
        seed=seed,
    )
    if (validation_share > 0) != (validation_out is not None):
        raise ConfigError(
            f"validation_share is {validation_share} and validation_out is {validation_out!r}; wanted both or neither"
        )
    _check(
        out=out,
        workers=workers,
        engine=engine,
        max_reject_share=max_reject_share,
        append=append,
        restart=restart,
    )
    wanted = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    found = find_sources(wanted)
    # Unchecked here: the job compares the engine with the reference, on its own corpus.
    chosen = (
        load_tokenizer(tokenizer, engine="fast") if isinstance(tokenizer, str | os.PathLike) else tokenizer
    )
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
        if shard_text_bytes is None:
            options = replace(options, shard_text_bytes=shard_bytes_for(found))
        if block_tokens is None:
            options = replace(options, block_tokens=_block_tokens(blob, chosen))
        job = Job(sources=tuple(found), options=options, tokenizer=chosen, generation=0)
        run = _Run(place=place, engine=engine, started=started, progress=progress, strict=strict)
        return run.do(job, workers=workers, append=append, max_reject_share=max_reject_share)


def _check(
    *, out: object, workers: int | None, engine: str, max_reject_share: float, append: bool, restart: bool
) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; wanted 1 or more")
    if engine not in ("local", "ray"):
        raise ConfigError(f"engine is {engine!r}; wanted local or ray")
    if not 0 <= max_reject_share <= 1:
        raise ConfigError(f"max_reject_share is {max_reject_share}; wanted a share between 0 and 1")
    if engine == "ray" and str(out).startswith("memory://"):
        raise ConfigError(f"{out}: other machines do not see this process's memory; wanted a path or URL")
    if append and restart:
        raise ConfigError("append adds to a store and restart throws it away; wanted one of them")


@dataclass(kw_only=True)
class _Run:
    """One call of `ingest`."""

    place: Place
    engine: str
    started: float
    progress: Progressing | None
    strict: bool
    notes: list[str] = field(default_factory=list)
    computed_by: str = ""

    @property
    def blob(self) -> Blob:
        """The store's place."""
        return self.place.store

    def do(self, job: Job, *, workers: int | None, append: bool, max_reject_share: float) -> IngestSummary:
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
        resumed = len(records)
        if resumed:
            self.notes.append(f"went on after {resumed} units of an earlier run")
        # What is in this process's memory, other processes do not see.
        workers = 1 if isinstance(self.blob, MemoryBlob) else workers or _default_workers(job)
        if workers >= seekpoints.MIN_WORKERS:
            self._find_seek_points(job)
        if job.options.dedup is not None and not journal.is_marked:
            self._mark_repeated(job, past, workers)
        schedule, records = self._units(job, records, workers)
        records = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
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

        def heard(kind: str, value: Any) -> None:
            if kind == "progress":
                meter.passed(value)
            elif kind == "done":
                records.append(value)

        self._strictly(
            lambda: sketch_units(
                job,
                self.place,
                schedule,
                workers=workers,
                engine=self.engine,
                strict=self.strict,
                heard=heard,
            ),
            records,
        )
        ordered = sorted(filter(schedule.belongs, records), key=lambda record: record.key)
        mark_repeated(job, self.blob, ordered, past)
        journal.mark()

    def _strictly(self, do: Callable[[], None], records: Sequence[UnitRecord]) -> None:
        """Do it; a bad document that stops the job is named by its place in the whole file."""
        try:
            do()
        except StrictStop as stop:
            reject = placed(stop.reject, lines_before(records, stop.track, stop.part))
            raise DocumentError(sentence(reject)) from None

    def _units(self, job: Job, records: list[UnitRecord], workers: int) -> tuple[Schedule, list[UnitRecord]]:
        """Do what is left; the schedule then knows which records belong to the store."""
        journal = Journal(self.blob)
        tracks = plan_tracks(job.sources, job.options)
        schedule = Schedule(tracks, records)
        meter = Meter(self.progress, total=sum(source.nbytes for source in job.sources))
        for record in records:
            meter.done(record)

        def heard(kind: str, value: Any) -> None:
            if kind == "progress":
                meter.passed(value)
            elif kind == "done":
                records.append(value)
            elif kind == "proven":
                self.computed_by = value
                journal.prove()

        try:
            self._strictly(
                lambda: run_units(
                    job,
                    self.place,
                    schedule,
                    workers=workers,
                    engine=self.engine,
                    strict=self.strict,
                    heard=heard,
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


def _default_workers(job: Job) -> int:
    size = sum(text_bytes_of(source) for source in job.sources)
    return max(1, min(len(os.sched_getaffinity(0)), size // BYTES_PER_WORKER))


def _block_tokens(blob: Blob, tokenizer: Tokenizer) -> int:
    """Those of the store that is there, else 256 KiB: 64 Ki tokens of 2 bytes made stores 3 % larger."""
    manifest = current_manifest(blob)
    return (
        BLOCK_BYTES // token_dtype(tokenizer.vocab_size).itemsize
        if manifest is None
        else manifest.block_tokens
    )


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
