"""Tasks -> messages of worker processes on this machine, forked by one fork server."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from headrace.workers.fork_server import ForkedWorker, ForkServer
from headrace.workers.messages import Message, Result, TaskFailed, WorkerDied, describe_exit, recv, send


class LocalTransport:
    """Worker processes by number.

    Args:
        server: has been told what to load.
    """

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._workers: dict[int, ForkedWorker] = {}
        self._busy: set[int] = set()

    def start(self, number: int) -> None:
        """See `Transport`."""
        self._stop(number)
        self._workers[number] = self._server.fork()

    def send(self, number: int, task: Any) -> None:
        """See `Transport`."""
        self._busy.add(number)
        with suppress(ConnectionError):  # `poll` reports the death
            send(self._workers[number].pipe, task)

    def poll(self) -> list[tuple[int | None, Message]]:
        """See `Transport`."""
        numbers: dict[Any, int] = {self._workers[number].pipe: number for number in self._busy}
        received: list[tuple[int | None, Message]] = []
        for pipe in wait([self._server.pipe, *numbers]):
            if pipe is self._server.pipe:
                received.append((None, self._server.recv()))
                continue
            number = numbers[pipe]
            message: Message
            try:
                message = recv(self._workers[number].pipe)
            except (EOFError, ConnectionError):
                code = self._server.reap(self._workers[number], lambda other: received.append((None, other)))
                message = WorkerDied(describe_exit(code))
            if isinstance(message, Result | TaskFailed | WorkerDied):
                self._busy.discard(number)
            received.append((number, message))
        return received

    def close(self) -> None:
        """See `Transport`."""
        for number in list(self._workers):
            self._stop(number)
        self._server.close()

    def _stop(self, number: int) -> None:
        if number in self._workers:
            self._workers.pop(number).pipe.close()
            self._busy.discard(number)
