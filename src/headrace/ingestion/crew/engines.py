"""A job's units -> records: in this process, by worker processes, or on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from headrace.errors import TokenizerError
from headrace.ingestion.crew.cluster import run_on_ray
from headrace.ingestion.crew.nursery import Beside, Nursery, Nurture, open_nursery
from headrace.ingestion.crew.pool import Pool, serve
from headrace.ingestion.job.job import Job, Place
from headrace.ingestion.options import Options
from headrace.ingestion.read.sources import Source
from headrace.ingestion.units.schedule import Schedule
from headrace.ingestion.work.prove import ask_for_proof, engine_mismatch, receive_proof, send_proof
from headrace.ingestion.work.sketching import Sketching
from headrace.ingestion.work.tokenizing import Work
from headrace.storage import open_blob
from headrace.tokens import Mismatch, Tokenizer, load_tokenizer, tokenizer_from_files
from headrace.tokens.gigatoken import slim_results
from headrace.tokens.probe import tricky_texts


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


def make_work(setup: Setup, tokenizer: Tokenizer | None = None) -> Work:
    """A worker's work; its tokenizer may be one that is loaded already."""
    return Work(
        sources=setup.sources,
        options=setup.options,
        tokenizer=tokenizer or tokenizer_from_files(setup.tokenizer_files, engine=setup.engine),
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


class Ahead:
    """A tokenizer, loaded while another process loads its reference and waits for the corpus."""

    def __init__(self, tokenizer: Tokenizer, beside: Beside) -> None:
        """Load it.

        Args:
            tokenizer: whose engine is not built yet.
            beside: does something in a fork.
        """
        slim_results()
        self.tokenizer = tokenizer
        self.proof = beside(functools.partial(send_proof, reference=tokenizer.as_reference()))
        # The first batch builds more than loading did.
        tokenizer.encode_batch(tricky_texts())

    @classmethod
    def of(cls, beside: Beside, tokenizer: str) -> Ahead:
        """By its name or path."""
        return cls(load_tokenizer(tokenizer, engine="fast"), beside)


class Tokenizing:
    """A nursery's charge: the tokenizer, and a proof of its engine that another process makes."""

    def __init__(self, setup: Setup, beside: Beside, ahead: Ahead | None = None) -> None:
        self._setup = setup
        if ahead is None or setup.engine != "fast" or ahead.tokenizer.files() != setup.tokenizer_files:
            ahead = Ahead(tokenizer_from_files(setup.tokenizer_files, engine=setup.engine), beside)
        self._tokenizer, self._proof = ahead.tokenizer, ahead.proof
        ask_for_proof(self._proof, sources=setup.sources, options=setup.options)

    def pipes(self) -> list[Connection]:
        """See `Charge`."""
        return [self._proof]

    def hear(self, pipe: Connection) -> Mismatch | str:
        """Does the engine give the reference's ids? Its name, or the first text on which it does not."""
        return receive_proof(pipe).mismatch(self._tokenizer) or self._tokenizer.engine

    def work(self, pipe: Connection) -> None:
        """See `Charge`."""
        serve(functools.partial(make_work, self._setup, self._tokenizer), pipe)


class Comparing:
    """A nursery's charge in dedup's first pass: there is nothing to load but code."""

    def __init__(self, setup: Setup, beside: Beside, ahead: Ahead | None) -> None:
        del beside, ahead
        self._setup = setup

    def pipes(self) -> list[Connection]:
        """See `Charge`."""
        return []

    def hear(self, pipe: Connection) -> None:
        """Never asked for."""
        raise AssertionError(pipe)

    def work(self, pipe: Connection) -> None:
        """See `Charge`."""
        serve(functools.partial(make_sketching, self._setup), pipe)


def run_units(
    job: Job,
    place: Place,
    schedule: Schedule,
    *,
    workers: int,
    engine: str,
    strict: bool,
    heard: Callable[[str, Any], None],
    nursery: Nursery | None = None,
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
        nursery: one that was started before, and has loaded nothing yet.

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
        with open_nursery() if nursery is None else nullcontext(nursery) as home:
            home.load(Nurture(load=Tokenizing, argument=setup_of(job, place, strict=strict)))
            Pool(home, workers).run(schedule, listen, answers=True)
            home.dismiss()  # they free their memory while the store is committed


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
        with open_nursery() as home:
            home.load(Nurture(load=Comparing, argument=setup_of(job, place, strict=strict)))
            Pool(home, workers).run(schedule, heard, answers=False)


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
