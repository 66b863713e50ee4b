"""One model, loaded by several workers -> one batch engine: worker processes on this machine, or Ray actors.

Workers only compute rows. One process has the sink, so a job's commits are the same with any number of workers. The
requests of a worker that died are given to the worker that replaces it.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from headrace.errors import HeadraceError, WorkerError
from headrace.generation.job import BatchEngine
from headrace.generation.loading import LoadedEngine, load_engine, load_prompts
from headrace.generation.options import PrefixCacheOptions
from headrace.generation.request import Request
from headrace.model import fetch_model
from headrace.paths import is_url
from headrace.types import Prediction
from headrace.workers import (
    ForkServer,
    LocalTransport,
    RayTransport,
    Transport,
    WorkerDied,
    WorkerPool,
    preload_worker,
)

MAX_DEATHS = 3
"""Deaths in a row, without a finished row in between."""
BATCHES_AHEAD = 3
"""Requests that a worker holds, in batches: one runs, one waits in its engine, one is on its way."""
COLLECT_S = 0.05
"""Rows that are finished within this time are sent together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """The task to load a model."""

    model: str
    engine: str
    dtype: str
    device: str
    batch_size: int
    threads: int | None
    """Of a CPU; None leaves torch's own number."""
    prefix_cache: PrefixCacheOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """The result of `EngineSetup`: what a worker has loaded."""

    fingerprint: str
    tokenizer_fingerprint: str
    dtype: str
    unsupported: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBatch:
    """The task to take requests, and to return rows as soon as one is finished."""

    requests: Sequence[Request] = ()
    last: bool = False
    """No request follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRows:
    """The result of a `RequestBatch`."""

    rows: tuple[Prediction, ...]
    ended: bool = False
    """All rows are finished, and no request follows."""
    cached_tokens: int = 0
    """Prompt tokens that this worker has found in its prefix cache, since it was started."""


class EngineWorker:
    """One worker's engine, and the thread in which it runs; see `headrace.workers.Worker`."""

    def __init__(self, argument: None) -> None:
        del argument
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._rows: queue.SimpleQueue[Prediction | Exception | None] = queue.SimpleQueue()
        self._engine: BatchEngine | None = None

    def run(
        self, task: EngineSetup | RequestBatch, notify: Callable[[object], None]
    ) -> WorkerInfo | FinishedRows:
        """Load a model, or exchange requests for finished rows.

        Raises:
            HeadraceError: the model cannot be loaded, or its engine failed.
        """
        del notify
        return self._load(task) if isinstance(task, EngineSetup) else self._exchange(task)

    def close(self) -> None:
        """The thread ends with the process."""

    def _load(self, setup: EngineSetup) -> WorkerInfo:
        if setup.threads is not None:
            torch.set_num_threads(setup.threads)
        loaded = load_engine(
            setup.model,
            engine=setup.engine,
            dtype=setup.dtype,
            device=setup.device,
            batch_size=setup.batch_size,
            prefix_cache=setup.prefix_cache,
        )
        self._engine = loaded.engine
        threading.Thread(target=self._run_engine, args=(loaded.engine,), daemon=True).start()
        return WorkerInfo(
            fingerprint=loaded.fingerprint,
            tokenizer_fingerprint=loaded.tokenizer_fingerprint,
            dtype=loaded.dtype,
            unsupported=dict(loaded.unsupported),
        )

    def _exchange(self, batch: RequestBatch) -> FinishedRows:
        """Queue requests, wait for one finished row, and return it with all others that are finished."""
        for request in batch.requests:
            self._requests.put(request)
        if batch.last:
            self._requests.put(None)
        rows: list[Prediction] = []
        timeout: float | None = None
        while True:
            try:
                row = self._rows.get(timeout=timeout)
            except queue.Empty:
                return FinishedRows(rows=tuple(rows), cached_tokens=self._cached_tokens)
            if row is None:
                return FinishedRows(rows=tuple(rows), ended=True, cached_tokens=self._cached_tokens)
            if isinstance(row, Exception):
                raise row
            rows.append(row)
            timeout = COLLECT_S

    @property
    def _cached_tokens(self) -> int:
        return 0 if self._engine is None else self._engine.cached_tokens

    def _run_engine(self, engine: BatchEngine) -> None:
        try:
            for row in engine.run(iter(self._requests.get, None)):
                self._rows.put(row)
            self._rows.put(None)
        except HeadraceError as error:
            self._rows.put(error)
        except Exception as error:  # noqa: BLE001 - the job raises it, whatever it is
            self._rows.put(WorkerError(f"a worker failed: {error!r}"))


class RequestQueue:
    """Requests of a job -> tasks of workers; see `headrace.workers.TaskQueue`.

    Args:
        setups: what each worker loads.
        batch_size: of each worker.
        loaded: workers that have loaded their model.
        requests: None only loads the model in all workers.
    """

    def __init__(
        self,
        setups: Sequence[EngineSetup],
        *,
        batch_size: int,
        loaded: bool,
        requests: Iterable[Request] | None = None,
    ) -> None:
        self._setups = setups
        self._credit = BATCHES_AHEAD * batch_size
        self._loaded = set(range(len(setups))) if loaded else set()
        self._requests = None if requests is None else iter(requests)
        self._again: deque[Request] = deque()
        self._held: list[dict[tuple[str, int], Request]] = [{} for _ in setups]
        self._sent_last: set[int] = set()
        self._ended: set[int] = set()
        self._deaths = 0
        self.info: WorkerInfo | None = None
        self.rows: list[Prediction] = []
        """Finished, and not taken yet."""
        self.cached_tokens = 0
        """Prompt tokens that workers have found in their prefix caches."""
        self._cached_tokens = [0] * len(setups)
        """The part of each worker's present process."""

    @property
    def is_done(self) -> bool:
        """See `TaskQueue`."""
        return False  # every running task is waited for

    def next_task(self, worker: int) -> EngineSetup | RequestBatch | None:
        """See `TaskQueue`."""
        if worker not in self._loaded:
            return self._setups[worker]
        if self._requests is None or worker in self._ended:
            return None
        if worker in self._sent_last:
            return RequestBatch()
        held = self._held[worker]
        missing = self._credit - len(held)
        requests = [self._again.popleft() for _ in range(min(missing, len(self._again)))]
        requests += islice(self._requests, missing - len(requests))
        last = len(requests) < missing
        if last:
            self._sent_last.add(worker)
        held.update((request.key, request) for request in requests)
        return RequestBatch(requests=requests, last=last)

    def finish(self, worker: int, result: WorkerInfo | FinishedRows) -> None:
        """See `TaskQueue`.

        Raises:
            WorkerError: workers have loaded different models.
        """
        if isinstance(result, WorkerInfo):
            self._loaded.add(worker)
            self._check(result)
            return
        held = self._held[worker]
        for row in result.rows:
            if held.pop((row.prompt_id, row.sample_index), None) is not None:
                self._deaths = 0
                self.rows.append(row)
        self.cached_tokens += max(0, result.cached_tokens - self._cached_tokens[worker])
        self._cached_tokens[worker] = result.cached_tokens
        if result.ended:
            self._ended.add(worker)

    def fail(self, worker: int, error: Exception) -> None:
        """See `TaskQueue`."""
        del worker
        raise error

    def give_back(self, worker: int, died: WorkerDied) -> None:
        """See `TaskQueue`.

        Raises:
            WorkerError: three workers died without a finished row in between, or one while it loaded the model.
        """
        if self._requests is None:
            raise WorkerError(f"generate: worker {worker} died while it loaded the model: {died.reason}.")
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            raise WorkerError(
                f"generate: workers died {MAX_DEATHS} times without making a row, the last one with {died.reason}. "
                f"Out of memory? Use fewer workers or a smaller batch_size. What is stored is kept: run the same "
                f"command again."
            )
        self._again.extend(self._held[worker].values())
        self._held[worker].clear()
        self._sent_last.discard(worker)
        self._loaded.discard(worker)
        self._cached_tokens[worker] = 0

    def _check(self, info: WorkerInfo) -> None:
        if self.info is None:
            self.info = info
        elif self.info != info:
            raise WorkerError(
                f"generate: workers have different models: {self.info} and {info}. Give every node the same "
                f"directory and the same dtype."
            )


class EnginePool:
    """Workers that have loaded the same model, as one batch engine.

    Args:
        transport: of `EngineWorker`s; not started.
        setups: what each worker loads.

    Raises:
        HeadraceError: a worker could not load its model.
        WorkerError: workers die, or have loaded different models.
    """

    def __init__(self, transport: Transport, setups: Sequence[EngineSetup]) -> None:
        self._setups = setups
        self._pool = WorkerPool(transport, len(setups))
        loading = RequestQueue(setups, batch_size=1, loaded=False)
        for _ in self._pool.run(loading):
            pass
        assert loading.info is not None
        self.info = loading.info
        self.cached_tokens = 0
        """See `BatchEngine`."""

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Rows in the order in which they are finished."""
        tasks = RequestQueue(
            self._setups, batch_size=self._setups[0].batch_size, loaded=True, requests=requests
        )
        tasks.info = self.info
        for _ in self._pool.run(tasks):
            rows, tasks.rows = tasks.rows, []
            self.cached_tokens = tasks.cached_tokens
            yield from rows


@contextmanager
def load_workers(
    model: str | os.PathLike[str],
    *,
    engine: str,
    dtype: str,
    device: str,
    batch_size: int,
    workers: int,
    distribute: str,
    prefix_cache: PrefixCacheOptions = PrefixCacheOptions(),  # noqa: B008  # frozen
) -> Iterator[LoadedEngine]:
    """Load the same model in several workers, as one engine; they are stopped at the end.

    Raises:
        ConfigError: what `load_engine` refuses.
        WorkerError: workers die.
    """
    prompts = load_prompts(fetch_model(model))
    local = distribute == "local"
    gpus = torch.cuda.device_count() if local and device in ("auto", "cuda") else 0
    setups = [
        EngineSetup(
            model=os.fspath(model) if is_url(model) else os.path.abspath(model),  # noqa: PTH100  # resolve() would follow links that only this node has
            engine=engine,
            dtype=dtype,
            device=f"cuda:{number % gpus}" if gpus else device,
            batch_size=batch_size,
            threads=max(1, torch.get_num_threads() // workers) if local else None,
            prefix_cache=prefix_cache,
        )
        for number in range(workers)
    ]
    with closing(open_transport(workers, local=local, share_gpus=device in ("auto", "cuda"))) as transport:
        pool = EnginePool(transport, setups)
        yield LoadedEngine(
            engine=pool,
            prompt_tokenizer=prompts,
            fingerprint=pool.info.fingerprint,
            tokenizer_fingerprint=pool.info.tokenizer_fingerprint,
            dtype=pool.info.dtype,
            unsupported=pool.info.unsupported,
        )


def open_transport(workers: int, *, local: bool, share_gpus: bool = False) -> Transport:
    """Workers that import torch before, and start its threads and use its devices after they are forked."""
    if not local:
        return RayTransport(EngineWorker, None, num_workers=workers, share_gpus=share_gpus)
    server = ForkServer(environment={"OPENBLAS_NUM_THREADS": "1"})  # NumPy's threads are not used
    server.preload(preload_worker(EngineWorker, None))
    return LocalTransport(server)
