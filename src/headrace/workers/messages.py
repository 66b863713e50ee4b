"""A message of a worker or of its job -> bytes in a pipe, and back."""

from __future__ import annotations

import pickle
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from headrace.errors import HeadraceError, WorkerError


@dataclass(frozen=True, slots=True)
class Notice:
    """Sent while a task runs (its progress), or by the fork server itself."""

    value: Any


@dataclass(frozen=True, slots=True)
class Result:
    """What a task returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """What a task raised, or what the fork server raised while it loaded."""

    error: Exception


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker's process is gone; its task has no result."""

    reason: str
    """Exit code, signal, or what Ray says."""


Message: TypeAlias = Notice | Result | TaskFailed | WorkerDied


def send(pipe: Connection, value: Any) -> None:
    """Send a value to the other end.

    Raises:
        ConnectionError: the other end is closed.
    """
    pipe.send_bytes(pickle.dumps(value))


def recv(pipe: Connection) -> Any:
    """Receive a value; waits for it.

    Raises:
        EOFError: the other end was closed.
        ConnectionError: the other end was closed with data in flight.
    """
    return pickle.loads(pipe.recv_bytes())  # noqa: S301 - pipes connect a process with its own children only


def task_failed(error: Exception) -> TaskFailed:
    """The message for an exception; one that headrace did not raise on purpose keeps its traceback as text."""
    if not isinstance(error, (HeadraceError, OSError)):
        import traceback

        error = WorkerError(f"a worker failed: {''.join(traceback.format_exception(error))}")
    error.__cause__ = error.__context__ = None
    return TaskFailed(error)


def describe_exit(code: int) -> str:
    """An exit code in words.

    >>> describe_exit(1), describe_exit(-9)
    ('exit code 1', 'signal 9 (SIGKILL)')
    """
    return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
