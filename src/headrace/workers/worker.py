"""Tasks from a pipe -> results to the pipe: the loop of a worker process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

from headrace.workers.messages import Notice, Result, TaskFailed, recv, send, task_failed


class Worker(Protocol):
    """What a worker process computes; its state lives from task to task."""

    def run(self, task: Any, notify: Callable[[Any], None]) -> Any:
        """Run one task; `notify` sends a `Notice` to the job meanwhile."""

    def close(self) -> None:
        """Close what is open."""


def serve(make: Callable[[], Worker], pipe: Connection) -> None:
    """Run tasks until the pipe closes.

    Args:
        make: makes the worker.
        pipe: delivers tasks; takes `Notice`, `Result`, or `TaskFailed`.
    """
    with suppress(ConnectionError, _JobGone):
        try:
            worker = make()
        except Exception as error:  # noqa: BLE001 - the job raises it, whatever it is
            send(pipe, task_failed(error))
            threading.Event().wait()  # stay until the job has read it and stops this process
            return
        with closing(worker):
            while True:
                try:
                    task = recv(pipe)
                except EOFError:
                    return
                send(pipe, _run(worker, task, pipe))


def _run(worker: Worker, task: Any, pipe: Connection) -> Result | TaskFailed:
    def notify(value: Any) -> None:
        try:
            send(pipe, Notice(value))
        except ConnectionError:
            raise _JobGone from None

    try:
        return Result(worker.run(task, notify))
    except Exception as error:  # noqa: BLE001 - the job raises it, whatever it is
        return task_failed(error)


class _JobGone(BaseException):
    """The job closed the pipe: no error of the task, and not to be caught by it."""
