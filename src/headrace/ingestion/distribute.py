"""A job's units -> records: in this process, by worker processes, or by Ray actors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from headrace.errors import TokenizerError, WorkerError
from headrace.ingestion.build.document_reader import UnitProgress
from headrace.ingestion.build.sketch_unit import UnitSketcher
from headrace.ingestion.build.tokenize_unit import CheckTokenizer, UnitTokenizer
from headrace.ingestion.build.tokenizer_check import receive_check, request_check, send_check
from headrace.ingestion.fork_server import start_fork_server
from headrace.ingestion.job.destination import Destination
from headrace.ingestion.job.job import IngestJob
from headrace.ingestion.options import ContentOptions, JobOptions
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.queue import UnitQueue
from headrace.ingestion.units.schedule import UnitSchedule
from headrace.storage import open_blob
from headrace.tokens import (
    Mismatch,
    Tokenizer,
    load_tokenizer,
    slim_results,
    tokenizer_from_files,
    tricky_texts,
)
from headrace.workers import (
    ForkServer,
    LocalTransport,
    Preload,
    RayTransport,
    Result,
    RunInFork,
    Worker,
    WorkerDied,
    WorkerPool,
    preload_worker,
)

Listener = Callable[[str, Any], None]
"""Called with ("progress", UnitProgress), ("done", UnitRecord), and ("checked", name of the tokenizer's engine)."""


class EngineMismatchError(TokenizerError):
    """The fast engine does not give the reference's ids on this corpus."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(f"{mismatch.text!r}: got ids {mismatch.got}, expected {mismatch.expected}")
        self.mismatch = mismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What a worker is made from; it is pickled."""

    sources: tuple[SourceFile, ...]
    options: ContentOptions
    tokenizer_files: Mapping[str, bytes]
    engine: Literal["fast", "reference"]
    url: str
    validation_url: str | None
    generation: int
    limits: JobOptions

    @classmethod
    def of(cls, job: IngestJob, destination: Destination, *, limits: JobOptions) -> WorkerSetup:
        """The setup of workers on a job."""
        return cls(
            sources=job.sources,
            options=job.options,
            tokenizer_files=job.tokenizer.files(),
            engine=job.engine,
            url=destination.store.url,
            validation_url=None if destination.validation is None else destination.validation.url,
            generation=job.generation,
            limits=limits,
        )


def make_tokenizer_worker(setup: WorkerSetup, tokenizer: Tokenizer | None = None) -> UnitTokenizer:
    """A worker that tokenizes units; its tokenizer may be one that is loaded already."""
    slim_results()
    return UnitTokenizer(
        sources=setup.sources,
        options=setup.options,
        tokenizer=tokenizer or tokenizer_from_files(setup.tokenizer_files, engine=setup.engine),
        blob=open_blob(setup.url),
        validation=None if setup.validation_url is None else open_blob(setup.validation_url),
        generation=setup.generation,
        limits=setup.limits,
    )


def make_sketch_worker(setup: WorkerSetup) -> UnitSketcher:
    """A worker for the first pass of deduplication."""
    return UnitSketcher(
        sources=setup.sources, options=setup.options, blob=open_blob(setup.url), limits=setup.limits
    )


class LoadedTokenizer:
    """A tokenizer whose engine is built, while another process loads its reference and waits for the corpus.

    Args:
        tokenizer: its engine is not built yet.
        run_in_fork: of the fork server.
    """

    def __init__(self, tokenizer: Tokenizer, run_in_fork: RunInFork) -> None:
        slim_results()
        self.tokenizer = tokenizer
        self.check = run_in_fork(functools.partial(send_check, reference=tokenizer.as_reference()))
        # The first batch builds more than loading did.
        tokenizer.encode_batch(tricky_texts())


def load_ahead(run_in_fork: RunInFork, tokenizer: str) -> LoadedTokenizer:
    """Load a tokenizer by its name or path before the job is known; see `fork_server`."""
    return LoadedTokenizer(load_tokenizer(tokenizer, engine="fast"), run_in_fork)


class TokenizerSpec:
    """The fork server's state for tokenizing: the tokenizer, and a check of its engine by another process."""

    def __init__(
        self, setup: WorkerSetup, run_in_fork: RunInFork, loaded: LoadedTokenizer | None = None
    ) -> None:
        self._setup = setup
        if loaded is None or setup.engine != "fast" or loaded.tokenizer.files() != setup.tokenizer_files:
            tokenizer = tokenizer_from_files(setup.tokenizer_files, engine=setup.engine)
            loaded = LoadedTokenizer(tokenizer, run_in_fork)
        self._tokenizer, self._check = loaded.tokenizer, loaded.check
        request_check(self._check, sources=setup.sources, options=setup.options)

    def pipes(self) -> list[Connection]:
        """See `WorkerSpec`."""
        return [self._check]

    def recv(self, pipe: Connection) -> Mismatch | str:
        """The engine's name if it gives the reference's ids, else the first text on which it does not."""
        return receive_check(pipe).mismatch(self._tokenizer) or self._tokenizer.engine

    def make_worker(self) -> Worker:
        """See `WorkerSpec`."""
        return make_tokenizer_worker(self._setup, self._tokenizer)


class FirstTask:
    """A queue of one task, for worker 0."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.is_done = False

    def next_task(self, worker: int) -> Any:
        """See `TaskQueue`."""
        return None if worker or self.is_done else self._task

    def finish(self, worker: int, result: Any) -> None:
        """See `TaskQueue`."""
        del worker, result
        self.is_done = True

    def fail(self, worker: int, error: Exception) -> None:
        """See `TaskQueue`."""
        del worker
        raise error

    def give_back(self, worker: int, died: WorkerDied) -> None:
        """See `TaskQueue`."""
        raise WorkerError(
            f"worker {worker} died while it checked the tokenizer: {died.reason}. Run the same command again"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where units run."""

    distribute: Literal["local", "ray"]
    workers: int
    limits: JobOptions
    """When the job stops."""

    @property
    def in_process(self) -> bool:
        """Do all units run in this process?"""
        return self.distribute == "local" and self.workers == 1


def run_units(
    job: IngestJob,
    destination: Destination,
    schedule: UnitSchedule,
    execution: Execution,
    *,
    listen: Listener,
    server: ForkServer | None = None,
) -> None:
    """Tokenize all units that are left, and check the tokenizer's engine meanwhile.

    Args:
        job: fixes the bytes.
        destination: where the store is made.
        schedule: the units.
        execution: where they run.
        listen: see `Listener`.
        server: a fork server that was started before, and has not been told what to load.

    Raises:
        EngineMismatchError: the fast engine is not exact on this corpus; nothing that was done counts.
        HeadraceError: what a unit raised: the first one in the store's order.
    """

    def on_checked(value: Mismatch | str) -> None:
        if isinstance(value, Mismatch):
            raise EngineMismatchError(value)
        listen("checked", value)

    if execution.in_process:
        work = UnitTokenizer(
            sources=job.sources,
            options=job.options,
            tokenizer=job.computing_tokenizer(),
            blob=destination.store,
            validation=destination.validation,
            generation=job.generation,
            limits=execution.limits,
        )
        with closing(work):
            on_checked(work.run(CheckTokenizer(), functools.partial(listen, "progress")))
            _run_in_process(work, schedule, listen)
        return
    setup = WorkerSetup.of(job, destination, limits=execution.limits)
    if execution.distribute == "ray":
        with _ray_pool(make_tokenizer_worker, setup, execution) as pool:
            for message in pool.run(FirstTask(CheckTokenizer())):
                on_checked(message.value)
            _run_pool(pool, schedule, listen)
        return
    with start_fork_server() if server is None else nullcontext(server) as started:
        started.preload(Preload(load=TokenizerSpec, argument=setup))
        pool = WorkerPool(LocalTransport(started), execution.workers)
        _run_pool(pool, schedule, listen, on_checked=on_checked)
        started.release()  # the workers free their memory while the store is committed


def sketch_units(
    job: IngestJob,
    destination: Destination,
    schedule: UnitSchedule,
    execution: Execution,
    *,
    listen: Listener,
) -> None:
    """The first pass of deduplication over all units that are left; see `run_units`."""
    if execution.in_process:
        with closing(
            UnitSketcher(
                sources=job.sources, options=job.options, blob=destination.store, limits=execution.limits
            )
        ) as sketcher:
            _run_in_process(sketcher, schedule, listen)
        return
    setup = WorkerSetup.of(job, destination, limits=execution.limits)
    if execution.distribute == "ray":
        with _ray_pool(make_sketch_worker, setup, execution) as pool:
            _run_pool(pool, schedule, listen)
        return
    with start_fork_server() as server:
        server.preload(preload_worker(make_sketch_worker, setup))
        _run_pool(WorkerPool(LocalTransport(server), execution.workers), schedule, listen)


@contextmanager
def _ray_pool(
    make: Callable[[WorkerSetup], Worker], setup: WorkerSetup, execution: Execution
) -> Iterator[WorkerPool]:
    transport = RayTransport(make, setup, num_workers=execution.workers)
    with closing(transport):
        yield WorkerPool(transport, execution.workers)


def _run_pool(
    pool: WorkerPool,
    schedule: UnitSchedule,
    listen: Listener,
    *,
    on_checked: Callable[[Mismatch | str], None] | None = None,
) -> None:
    """Run a schedule; with `on_checked`, nothing counts as done before the fork server has sent its check."""
    for message in pool.run(UnitQueue(schedule), notices=0 if on_checked is None else 1):
        if isinstance(message, Result):
            listen("done", message.value)
        elif isinstance(message.value, UnitProgress):
            listen("progress", message.value)
        elif on_checked is not None:
            on_checked(message.value)


def _run_in_process(worker: Worker, schedule: UnitSchedule, listen: Listener) -> None:
    while (unit := schedule.next_unit(0)) is not None:
        record = worker.run(unit, functools.partial(listen, "progress"))
        schedule.finish(0, record)
        listen("done", record)
