"""A queue of tasks and workers by number -> messages: idle workers get tasks, dead workers are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from headrace.workers.messages import Message, Notice, Result, TaskFailed, WorkerDied


class Transport(Protocol):
    """Workers by number, wherever they run; each has at most one task at a time."""

    def start(self, number: int) -> None:
        """Start a worker, in the place of the one that had this number."""

    def send(self, number: int, task: Any) -> None:
        """Send a task to an idle worker."""

    def poll(self) -> list[tuple[int | None, Message]]:
        """Wait for messages of busy workers; at least one. Worker None is the process that starts workers.

        Raises:
            HeadraceError: that process could not load what workers need, or died.
        """

    def close(self) -> None:
        """Stop all workers, whatever they are doing."""


class TaskQueue(Protocol):
    """Decides which worker gets which task, and what a failure or a death means."""

    @property
    def is_done(self) -> bool:
        """Is no result needed any more? Tasks that are still running are then not waited for."""

    def next_task(self, worker: int) -> Any | None:
        """The task for an idle worker; None lets it be idle until the end."""

    def finish(self, worker: int, result: Any) -> None:
        """Take the result of a worker's task."""

    def fail(self, worker: int, error: Exception) -> None:
        """A worker's task raised an error: raise it, or remember it."""

    def give_back(self, worker: int, died: WorkerDied) -> None:
        """A worker died: its task is to be given out again. Raises: WorkerError: too many died."""


class WorkerPool:
    """Workers 0 to size - 1 of a transport, started.

    Args:
        transport: starts the workers and reaches them.
        size: how many.
    """

    def __init__(self, transport: Transport, size: int) -> None:
        self._transport = transport
        self._size = size
        for number in range(size):
            transport.start(number)

    def run(self, queue: TaskQueue, *, notices: int = 0) -> Iterator[Notice | Result]:
        """Run all tasks of a queue.

        Args:
            queue: of tasks.
            notices: how many messages of the process that starts workers are waited for, beside the tasks.

        Yields:
            Notices and results as they come, those of the process that starts workers among them.

        Raises:
            HeadraceError: what the queue, or the transport, raised.
        """
        busy = {number for number in range(self._size) if self._give(number, queue)}
        while notices > 0 or (busy and not queue.is_done):
            for number, message in self._transport.poll():
                if number is None:
                    assert isinstance(message, Notice)
                    notices -= 1
                    yield message
                    continue
                if isinstance(message, Notice):
                    yield message
                    continue
                if isinstance(message, WorkerDied):
                    queue.give_back(number, message)
                    self._transport.start(number)
                elif isinstance(message, TaskFailed):
                    queue.fail(number, message.error)
                else:
                    queue.finish(number, message.value)
                    yield message
                if not self._give(number, queue):
                    busy.discard(number)

    def _give(self, number: int, queue: TaskQueue) -> bool:
        task = queue.next_task(number)
        if task is not None:
            self._transport.send(number, task)
        return task is not None
