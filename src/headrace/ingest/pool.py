"""Units -> records, by long-lived worker processes that die with their parent.

Workers are started by the interpreter alone, not by multiprocessing: a script that calls `ingest` needs no
`if __name__ == "__main__"`, and threads or locks of the parent are not copied. A worker that dies gives its
unit back, and another takes its place.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from headrace.errors import HeadraceError, WorkerError
from headrace.ingest.plan import Unit
from headrace.ingest.schedule import Schedule
from headrace.tokens.gigatoken import slim_results

MAX_DEATHS_PER_UNIT = 3
_BOOT = (
    "import json, os, sys; sys.path[:] = json.loads(os.environ.pop('HEADRACE_SYS_PATH')); "
    "from headrace.ingest.pool import worker_main; worker_main(*map(int, sys.argv[1:]))"
)


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    life: int
    """Our end of a pipe that the worker watches: when it closes, the worker leaves at once."""


class Pool:
    """Worker processes; `setup` is what each of them starts from (see `worker_main`)."""

    def __init__(self, size: int, setup: bytes) -> None:
        self._setup = setup
        self._workers: dict[int, _Worker] = {}
        self._deaths: dict[str, int] = {}
        for number in range(size):
            self._start(number)

    def _start(self, number: int) -> None:
        # A file and not the pipe: workers read it when they are up, and start at the same time.
        setup = tempfile.TemporaryFile(prefix="headrace-setup-")  # noqa: SIM115 - closed below
        setup.write(self._setup)
        setup.flush()
        ours, theirs = _pipe()
        life_read, life_write = os.pipe()
        environment = {
            **os.environ,
            "HEADRACE_SYS_PATH": json.dumps(sys.path),
            "TOKENIZERS_PARALLELISM": "false",
            "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads cost 0.07 s of CPU at each start, and do nothing here
        }
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(life_read), str(setup.fileno())],
            pass_fds=(theirs.fileno(), life_read, setup.fileno()),
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C is ours to handle
        )
        theirs.close()
        setup.close()
        os.close(life_read)
        self._workers[number] = _Worker(process=process, pipe=ours, life=life_write)

    def run(
        self, schedule: Schedule, heard: Callable[[str, Any], None], *, question: Callable[[Any], Any]
    ) -> None:
        """Do all units of a schedule.

        Args:
            schedule: says which unit is next.
            heard: called with ("progress", Progress), ("done", UnitRecord) and, once, ("answer", ...).
            question: called by one worker with its work, before its first unit; the others do not wait.

        Raises:
            HeadraceError: what a worker raised: of the first unit in the store's order, of those that failed.
            WorkerError: a unit killed its worker again and again.
        """
        failures: dict[str, BaseException] = {}
        idle = {number for number in self._workers if number and not self._give(number, schedule)}
        self._tell(0, question)
        answered = False
        while not (schedule.is_done and answered):
            busy = {worker.pipe: number for number, worker in self._workers.items() if number not in idle}
            if not busy:
                break
            for pipe in wait(list(busy)):
                number = busy[pipe]  # type: ignore[index]
                try:
                    kind, value = pickle.loads(self._workers[number].pipe.recv_bytes())  # noqa: S301 - ours
                except (EOFError, ConnectionError):
                    self._replace(number, schedule)
                    kind, value = "died", None
                    if number == 0 and not answered:
                        self._tell(0, question)
                        continue
                if kind == "progress":
                    heard(kind, value)
                    continue
                answered = answered or kind == "answer"
                if kind == "failed":
                    key, error = value
                    failures[key] = error
                    schedule.give_back(number)
                elif kind == "done":
                    schedule.finish(number, value)
                if kind in ("done", "answer"):
                    heard(kind, value)
                if failures:
                    idle.add(number)
                    first_failure(failures, schedule)
                elif not self._give(number, schedule):
                    idle.add(number)
                else:
                    idle.discard(number)
        if failures:
            raise failures[min(failures)]

    def _give(self, number: int, schedule: Schedule) -> bool:
        unit = schedule.next_unit(number)
        if unit is not None:
            self._tell(number, unit)
        return unit is not None

    def _tell(self, number: int, what: object) -> None:
        # A worker that is gone is met again where its pipe is read.
        with suppress(ConnectionError):
            _send(self._workers[number].pipe, pickle.dumps(what))

    def _replace(self, number: int, schedule: Schedule) -> None:
        worker = self._workers[number]
        code = worker.process.wait()
        worker.pipe.close()
        os.close(worker.life)
        unit = schedule.give_back(number)
        key = unit.key if unit is not None else "-"
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= MAX_DEATHS_PER_UNIT:
            del self._workers[number]
            raise WorkerError(
                f"unit {key}: its worker died {MAX_DEATHS_PER_UNIT} times, last with {_exit_words(code)}. "
                f"Out of memory? Use fewer workers. What is done is kept: run the same command again"
            )
        self._start(number)

    def close(self) -> None:
        """Stop all workers, whatever they are at."""
        for worker in self._workers.values():
            os.close(worker.life)
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.wait()
        self._workers.clear()


def first_failure(failures: Mapping[str, BaseException], schedule: Schedule) -> None:
    """Raise the failure of the first unit in the store's order, once no unit before it is at work any more."""
    first = min(failures, default=None)
    if first is not None and not any(unit.key < first for unit in schedule.running()):
        raise failures[first]


@contextmanager
def worker_pool(size: int, setup: bytes) -> Iterator[Pool]:
    """A pool that is stopped at the end."""
    pool = Pool(size, setup)
    try:
        yield pool
    finally:
        pool.close()


def worker_main(pipe_fd: int, life_fd: int, setup_fd: int) -> None:
    """A worker process: setup, then units until the pipe closes.

    The setup is a pickled pair of a function and its argument; called, it gives a context manager whose value
    has run(unit, progress) -> UnitRecord. What is sent then is a unit, or a function that is called with that
    value and whose result is sent back.
    """
    threading.Thread(target=_die_with_parent, args=(life_fd,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(pipe_fd)
    slim_results()
    with os.fdopen(setup_fd, "rb") as setup:
        setup.seek(0)
        make, argument = pickle.load(setup)  # noqa: S301 - from our parent
    unit: Unit | None = None
    try:
        with make(argument) as work:
            while True:
                task = pickle.loads(pipe.recv_bytes())  # noqa: S301
                if not isinstance(task, Unit):
                    _send(pipe, pickle.dumps(("answer", task(work))))
                    continue
                unit = task
                record = work.run(unit, lambda progress: _send(pipe, pickle.dumps(("progress", progress))))
                _send(pipe, pickle.dumps(("done", record)))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        _send(pipe, _failure(unit.key if unit is not None else "", error))
        # Stay until the parent has read it and lets go of us.
        threading.Event().wait()


def _failure(key: str, error: Exception) -> bytes:
    if not isinstance(error, (HeadraceError, OSError)):
        import traceback

        error = WorkerError(f"a worker failed: {''.join(traceback.format_exception(error))}")
    error.__cause__ = error.__context__ = None
    return pickle.dumps(("failed", (key, error)))


def _die_with_parent(life_fd: int) -> None:
    os.read(life_fd, 1)
    os._exit(1)


def _pipe() -> tuple[Connection, Connection]:
    import socket

    a, b = socket.socketpair()
    return Connection(a.detach()), Connection(b.detach())


def _send(pipe: Connection, data: bytes) -> None:
    pipe.send_bytes(data)


def _exit_words(code: int) -> str:
    return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
