"""A job's units -> records: in this process, by worker processes, or on a cluster."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import TokenizerError
from headrace.ingest.cluster import run_on_ray
from headrace.ingest.job import Job, Place
from headrace.ingest.options import Options
from headrace.ingest.pool import worker_pool
from headrace.ingest.prove import engine_mismatch
from headrace.ingest.schedule import Schedule
from headrace.ingest.sketching import Sketching
from headrace.ingest.sources import Source
from headrace.ingest.work import Work
from headrace.store import open_blob
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
    engine: Literal["fast", "reference"]
    url: str
    validation_url: str | None
    generation: int
    strict: bool


def setup_of(job: Job, place: Place, *, strict: bool) -> Setup:
    """What workers on this job start from."""
    return Setup(
        sources=job.sources,
        options=job.options,
        tokenizer_files=job.tokenizer.files(),
        engine=job.engine,
        url=place.store.url,
        validation_url=None if place.validation is None else place.validation.url,
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
        validation=None if setup.validation_url is None else open_blob(setup.validation_url),
        generation=setup.generation,
        strict=setup.strict,
    )


def make_sketching(setup: Setup) -> Sketching:
    """A worker's work in dedup's first pass."""
    return Sketching(
        sources=setup.sources, options=setup.options, blob=open_blob(setup.url), strict=setup.strict
    )


def run_units(
    job: Job,
    place: Place,
    schedule: Schedule,
    *,
    workers: int,
    engine: str,
    strict: bool,
    heard: Callable[[str, Any], None],
) -> None:
    """Do all units that are left.

    Args:
        job: what is asked for.
        place: where the store is made.
        schedule: the units.
        workers: processes; with 1, everything happens in this process (engine local).
        engine: local or ray.
        strict: stop at the first bad document.
        heard: called with ("progress", Progress), ("done", UnitRecord), and ("proven", name) when the
            engine has been found exact.

    Raises:
        EngineMismatchError: the fast engine is not exact on this corpus; nothing that was done counts.
        HeadraceError: what a unit raised: the first one in the store's order.
    """
    question = functools.partial(prove, sources=job.sources, options=job.options)

    def listen(kind: str, value: Any) -> None:
        if kind != "answer":
            heard(kind, value)
        elif isinstance(value, Mismatch):
            raise EngineMismatchError(value)
        else:
            heard("proven", value)

    if engine == "ray":
        setup = setup_of(job, place, strict=strict)
        run_on_ray(make_work, setup, schedule, workers=workers, heard=listen, question=question)
    elif workers == 1:
        work = Work(
            sources=job.sources,
            options=job.options,
            tokenizer=job.computing(),
            blob=place.store,
            validation=place.validation,
            generation=job.generation,
            strict=strict,
        )
        with work:
            listen("answer", question(work))
            _one_by_one(work, schedule, heard)
    else:
        started = pickle.dumps((make_work, setup_of(job, place, strict=strict)))
        with worker_pool(workers, started) as pool:
            pool.run(schedule, listen, question=question)


def sketch_units(
    job: Job,
    place: Place,
    schedule: Schedule,
    *,
    workers: int,
    engine: str,
    strict: bool,
    heard: Callable[[str, Any], None],
) -> None:
    """Dedup's first pass over all units that are left; see `run_units`."""
    if engine == "ray":
        setup = setup_of(job, place, strict=strict)
        run_on_ray(make_sketching, setup, schedule, workers=workers, heard=heard, question=nothing)
    elif workers == 1:
        with Sketching(
            sources=job.sources, options=job.options, blob=place.store, strict=strict
        ) as sketching:
            _one_by_one(sketching, schedule, heard)
    else:
        started = pickle.dumps((make_sketching, setup_of(job, place, strict=strict)))
        with worker_pool(workers, started) as pool:
            pool.run(schedule, heard, question=nothing)


def _one_by_one(work: Work | Sketching, schedule: Schedule, heard: Callable[[str, Any], None]) -> None:
    while (unit := schedule.next_unit(0)) is not None:
        record = work.run(unit, functools.partial(heard, "progress"))
        schedule.finish(0, record)
        heard("done", record)


def nothing(work: Any) -> None:
    """The question of those who have none."""
    del work


def prove(work: Work, *, sources: tuple[Source, ...], options: Options) -> Mismatch | str:
    """Compare a worker's engine with the reference on a sample of the corpus; its name if it is exact."""
    return engine_mismatch(work.tokenizer, sources, options) or work.tokenizer.engine
