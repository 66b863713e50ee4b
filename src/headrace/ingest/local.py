"""A job's units -> records, on this machine: in this process, or by worker processes."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import TokenizerError
from headrace.ingest.job import Job
from headrace.ingest.options import Options
from headrace.ingest.pool import worker_pool
from headrace.ingest.prove import engine_mismatch
from headrace.ingest.schedule import Schedule
from headrace.ingest.sources import Source
from headrace.ingest.work import Work
from headrace.store import Blob, open_blob
from headrace.tokens import Mismatch, tokenizer_from_files


class EngineMismatchError(TokenizerError):
    """The fast engine does not give the reference's ids on this corpus."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(f"{mismatch.text!r}: got ids {mismatch.got}, wanted {mismatch.wanted}")
        self.mismatch = mismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker starts from."""

    sources: tuple[Source, ...]
    options: Options
    tokenizer_files: Mapping[str, bytes]
    engine: Literal["gigatoken", "reference"]
    url: str
    generation: int
    strict: bool


def setup_of(job: Job, blob: Blob, *, strict: bool) -> Setup:
    """What workers on this job start from."""
    return Setup(
        sources=job.sources,
        options=job.options,
        tokenizer_files=job.tokenizer.files(),
        engine="gigatoken" if job.tokenizer.engine == "gigatoken" else "reference",
        url=blob.url,
        generation=job.generation,
        strict=strict,
    )


def make_work(setup: Setup) -> Work:
    """A worker's work."""
    return Work(
        sources=setup.sources,
        options=setup.options,
        tokenizer=tokenizer_from_files(setup.tokenizer_files, engine=setup.engine),
        blob=open_blob(setup.url),
        generation=setup.generation,
        strict=setup.strict,
    )


def run_units(
    job: Job,
    blob: Blob,
    schedule: Schedule,
    *,
    workers: int,
    strict: bool,
    heard: Callable[[str, Any], None],
) -> None:
    """Do all units that are left.

    Args:
        job: what is asked for.
        blob: the store's place.
        schedule: the units.
        workers: processes; with 1, everything happens in this process.
        strict: stop at the first bad document.
        heard: called with ("progress", Progress), ("done", UnitRecord), and ("proven", None) when the engine
            has been found exact.

    Raises:
        EngineMismatchError: the fast engine is not exact on this corpus; nothing that was done counts.
        HeadraceError: what a unit raised: the first one in the store's order.
    """
    question = functools.partial(prove, sources=job.sources, options=job.options)

    def listen(kind: str, value: Any) -> None:
        if kind != "answer":
            heard(kind, value)
        elif value is not None:
            raise EngineMismatchError(value)
        else:
            heard("proven", None)

    if workers == 1:
        work = Work(
            sources=job.sources,
            options=job.options,
            tokenizer=job.tokenizer,
            blob=blob,
            generation=job.generation,
            strict=strict,
        )
        with work:
            listen("answer", question(work))
            while (unit := schedule.next_unit(0)) is not None:
                record = work.run(unit, functools.partial(heard, "progress"))
                schedule.finish(0, record)
                heard("done", record)
        return
    setup = pickle.dumps((make_work, setup_of(job, blob, strict=strict)))
    with worker_pool(workers, setup) as pool:
        pool.run(schedule, listen, question=question)


def prove(work: Work, *, sources: tuple[Source, ...], options: Options) -> Mismatch | None:
    """Compare a worker's engine with the reference on a sample of the corpus."""
    return engine_mismatch(work.tokenizer, sources, options)
