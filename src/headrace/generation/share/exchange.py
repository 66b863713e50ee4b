"""Requests -> rows, in small swaps: an engine that runs in a thread of a worker, fed from elsewhere.

A worker is given more requests than two batches, so that its engine does not wait for the next swap.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from headrace.errors import HeadraceError, WorkerError
from headrace.generation.request import Request
from headrace.types import Prediction

if TYPE_CHECKING:
    from headrace.generation.job import BatchEngine

WAIT_S = 0.05
"""Rows that end within this time go back together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What each worker loads."""

    model: str
    engine: str
    dtype: str
    device: str
    batch_size: int
    threads: int | None
    """Of a CPU; None leaves torch's own number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a worker loaded."""

    fingerprint: str
    tokenizer_fingerprint: str
    dtype: str
    cannot: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a swap gives."""

    rows: tuple[Prediction, ...]
    ended: bool = False
    """All rows are made, and no request follows."""


class Exchange:
    """One worker's engine and the thread in which it runs."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._rows: queue.SimpleQueue[Prediction | Exception | None] = queue.SimpleQueue()

    def load(self) -> About:
        """Load the model and start; what was loaded.

        Raises:
            HeadraceError: it cannot be loaded.
        """
        from headrace.generation.loading import load_engine

        setup = self._setup
        if setup.threads is not None:
            import torch

            torch.set_num_threads(setup.threads)
        loaded = load_engine(
            setup.model,
            engine=setup.engine,
            dtype=setup.dtype,
            device=setup.device,
            batch_size=setup.batch_size,
        )
        threading.Thread(target=self._run, args=(loaded.engine,), daemon=True).start()
        return About(
            fingerprint=loaded.fingerprint,
            tokenizer_fingerprint=loaded.tokenizer_fingerprint,
            dtype=loaded.dtype,
            cannot=dict(loaded.unsupported),
        )

    def swap(self, requests: Sequence[Request], *, last: bool) -> Answer:
        """Hand over requests, wait for a row, and take all that are finished.

        Args:
            requests: to be made.
            last: none follows.

        Raises:
            HeadraceError: the engine failed.
        """
        for request in requests:
            self._requests.put(request)
        if last:
            self._requests.put(None)
        rows: list[Prediction] = []
        wait: float | None = None
        while True:
            try:
                row = self._rows.get(timeout=wait)
            except queue.Empty:
                return Answer(rows=tuple(rows))
            if row is None:
                return Answer(rows=tuple(rows), ended=True)
            if isinstance(row, Exception):
                raise row
            rows.append(row)
            wait = WAIT_S

    def _run(self, engine: BatchEngine) -> None:
        try:
            for row in engine.run(self._source()):
                self._rows.put(row)
            self._rows.put(None)
        except HeadraceError as error:
            self._rows.put(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the coordinator raises it
            self._rows.put(WorkerError(f"a worker failed: {error!r}"))

    def _source(self) -> Iterator[Request]:
        while (request := self._requests.get()) is not None:
            yield request


def worker_main(pipe_fd: int) -> None:
    """A worker process: a setup, then swaps, until the pipe closes; everything is pickled by our own parent."""
    pipe = Connection(pipe_fd)
    try:
        answer: Any
        try:
            exchange = Exchange(pickle.loads(pipe.recv_bytes()))  # noqa: S301
            answer = exchange.load()
        except HeadraceError as error:
            answer = error
        except Exception as error:  # noqa: BLE001  # as above
            answer = WorkerError(f"a worker could not start: {error!r}")
        pipe.send_bytes(pickle.dumps(answer))
        # A thread of its own reads: a coordinator that dies closes the pipe, and the worker goes at once.
        tasks: queue.SimpleQueue[tuple[Sequence[Request], bool]] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
        while True:
            requests, last = tasks.get()
            try:
                answer = exchange.swap(requests, last=last)
            except HeadraceError as error:
                answer = error
            pipe.send_bytes(pickle.dumps(answer))
    except (EOFError, OSError):
        os._exit(1)


def _listen(pipe: Connection, tasks: queue.SimpleQueue[tuple[Sequence[Request], bool]]) -> None:
    try:
        while True:
            tasks.put(pickle.loads(pipe.recv_bytes()))  # noqa: S301
    except (EOFError, OSError):
        os._exit(1)
