"""What all workers need -> a process that loads it once and forks the workers: the job's side.

The process is started by the interpreter alone, not by multiprocessing: a script that calls `ingest` needs no
`if __name__ == "__main__"`, and threads or locks of the job's process are not copied. It has one thread itself, so
that its forks are safe. It can be started before it is known what to load: its imports then run beside the job's.

    job -> fork server     a pickled `Preload`; then ("fork", index) with a pipe's end; ("reap", index)
    fork server -> job     Notice(value) for each pipe of the WorkerSpec; Result(exit code) of a reaped worker;
                           TaskFailed(error) when loading failed
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeAlias

from headrace.errors import WorkerError
from headrace.workers.messages import Message, Result, TaskFailed, describe_exit, recv, send
from headrace.workers.worker import Worker

_BOOT = (
    "import json, os, sys; sys.path[:] = json.loads(os.environ.pop('HEADRACE_SYS_PATH')); "
    "from headrace.workers.fork_server_main import main; main(sys.argv[1])"
)
_EXIT_TIMEOUT_S = 10.0

RunInFork: TypeAlias = Callable[[Callable[[Connection], None]], Connection]
"""Runs a function in a fork of the fork server, with one end of a pipe; returns the other end."""


class WorkerSpec(Protocol):
    """What the fork server has loaded, and from which each worker is made."""

    def pipes(self) -> Sequence[Connection]:
        """Pipes to wait for; `recv` is called once for each, when it can be read."""

    def recv(self, pipe: Connection) -> Any:
        """Read a pipe of `pipes`; what is returned goes to the job as a `Notice`."""

    def make_worker(self) -> Worker:
        """Make the worker, in its own process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    """What the fork server loads before it forks: a function at the top of a module, and its argument.

    The function is called with the argument, a `RunInFork`, and what `prepare` returned, or None.
    """

    load: Callable[[Any, RunInFork, Any], WorkerSpec]
    argument: Any


class PlainSpec:
    """A worker that needs nothing but its code: made by a function of one argument."""

    def __init__(self, make: Callable[[Any], Worker], argument: Any) -> None:
        self._make, self._argument = make, argument

    def pipes(self) -> Sequence[Connection]:
        """See `WorkerSpec`."""
        return ()

    def recv(self, pipe: Connection) -> Any:
        """See `WorkerSpec`."""
        raise AssertionError(pipe)

    def make_worker(self) -> Worker:
        """See `WorkerSpec`."""
        return self._make(self._argument)


def preload_worker(make: Callable[[Any], Worker], argument: Any) -> Preload:
    """A `Preload` that loads nothing: each worker process calls `make(argument)`."""
    return Preload(load=_plain, argument=(make, argument))


def _plain(argument: Any, run_in_fork: RunInFork, prepared: Any) -> PlainSpec:
    del run_in_fork, prepared
    return PlainSpec(*argument)


class ForkedWorker:
    """One worker process: its number among the server's forks, and our end of its pipe."""

    def __init__(self, index: int, pipe: Connection) -> None:
        self.index, self.pipe = index, pipe


class ForkServer:
    """The job's handle of the fork server.

    Args:
        modules: imported by the server as soon as it has started.
        prepare: "module:function" of what can be loaded before the `Preload` is known; called with a
            `RunInFork` and the arguments.
        arguments: of `prepare`.
        environment: variables of the server and its workers, beside the job's own.
    """

    def __init__(
        self,
        *,
        modules: Sequence[str] = (),
        prepare: str = "",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._pipe = Connection(os.dup(ours.fileno()))
        self._forks = 0
        life_read, self._life = os.pipe()
        start = {
            "socket": theirs.fileno(),
            "life": life_read,
            "modules": list(modules),
            "prepare": prepare,
            "arguments": list(arguments),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(start)],
            pass_fds=(theirs.fileno(), life_read),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {}), "HEADRACE_SYS_PATH": json.dumps(sys.path)},
            process_group=0,  # Ctrl-C reaches the job alone, which then stops the server
        )
        theirs.close()
        os.close(life_read)

    @property
    def pipe(self) -> Connection:
        """Can be read when `recv` has a message."""
        return self._pipe

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def preload(self, preload: Preload) -> None:
        """Tell the server what to load; workers can be forked at once."""
        self._send(preload)

    def fork(self) -> ForkedWorker:
        """A worker process, which starts as soon as all is loaded."""
        ours, theirs = socket.socketpair()
        index, self._forks = self._forks, self._forks + 1
        self._send(("fork", index))
        with suppress(ConnectionError):  # `recv` says that the server is gone
            socket.send_fds(self._socket, [b"f"], [theirs.fileno()])
        theirs.close()
        return ForkedWorker(index, Connection(ours.detach()))

    def reap(self, worker: ForkedWorker, on_message: Callable[[Message], None]) -> int:
        """Exit code of a worker whose pipe has closed (below 0: minus the signal).

        Args:
            worker: whose process is ending.
            on_message: called with other messages of the server that arrive meanwhile.

        Raises:
            HeadraceError: see `recv`.
        """
        self._send(("reap", worker.index))
        while not isinstance(message := self.recv(), Result):
            on_message(message)
        return int(message.value)

    def recv(self) -> Message:
        """The server's next message.

        Raises:
            HeadraceError: what the server raised while it loaded; it forks and reaps no more.
            WorkerError: the server died.
        """
        try:
            message: Message = recv(self._pipe)
        except (EOFError, ConnectionError):
            raise WorkerError(
                f"the process that starts the workers died with {describe_exit(self._process.wait())}. Out of memory? "
                f"Use fewer workers. What is done is kept: run the same command again"
            ) from None
        if isinstance(message, TaskFailed):
            raise message.error
        return message

    def release(self) -> None:
        """Make the server and all its workers exit, without waiting for them."""
        if self._socket.fileno() >= 0:
            os.close(self._life)  # each worker exits when it sees this
            self._pipe.close()
            self._socket.close()  # and the server kills those that have not, and exits

    def close(self) -> None:
        """Stop the server and all its workers, whatever they are doing."""
        self.release()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, value: Any) -> None:
        with suppress(ConnectionError):  # `recv` says that the server is gone
            send(self._pipe, value)


@contextmanager
def open_fork_server(
    *,
    modules: Sequence[str] = (),
    prepare: str = "",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[ForkServer]:
    """A `ForkServer` that is stopped at the end of the block, with all its workers."""
    server = ForkServer(modules=modules, prepare=prepare, arguments=arguments, environment=environment)
    try:
        yield server
    finally:
        server.close()
