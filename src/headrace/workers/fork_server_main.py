"""A `Preload` and requests to fork -> worker processes: the fork server's own process."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from headrace.workers.fork_server import WorkerSpec
from headrace.workers.messages import Notice, Result, recv, send, task_failed
from headrace.workers.worker import serve


class _JobGone(Exception):
    """The job's process has closed its end, or died."""


def main(start: str) -> None:
    """Load, then fork until the job closes the connection.

    Args:
        start: JSON, written by `ForkServer`: file descriptors, modules, and what to prepare.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # nothing of what is loaded is freed again
    options = json.loads(start)
    server = _Server(options["socket"], options["life"])
    try:
        for module in options["modules"]:
            import_module(module)
        prepared = None
        if options["prepare"]:
            with suppress(Exception):  # the job loads the same, fails as well, and has the better message
                prepared = _function(options["prepare"])(server.run_in_fork, *options["arguments"])
        preload = server.recv()
        spec = preload.load(preload.argument, server.run_in_fork, prepared)
        gc.freeze()  # memory pages that no collection writes to stay shared with the workers
        gc.enable()
        server.serve(spec)
    except _JobGone:
        pass
    except Exception as error:  # noqa: BLE001 - the job raises it, whatever it is
        with suppress(_JobGone):
            server.send(task_failed(error))
            while True:  # stay until the job has read it and closes the connection
                server.recv()
    finally:
        server.kill_all()
        os._exit(0)  # an orderly end of the interpreter would keep the job waiting


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


class _Server:
    """State of the fork server's process."""

    def __init__(self, socket_fd: int, life_fd: int) -> None:
        self._socket = socket.socket(fileno=socket_fd)
        self._pipe = Connection(os.dup(socket_fd))
        self._life_fd = life_fd
        self._workers: dict[int, int] = {}
        self._helpers: list[int] = []

    def recv(self) -> Any:
        """The job's next message."""
        try:
            return recv(self._pipe)
        except (EOFError, ConnectionError):
            raise _JobGone from None

    def send(self, message: Any) -> None:
        """Send a message to the job."""
        try:
            send(self._pipe, message)
        except ConnectionError:
            raise _JobGone from None

    def run_in_fork(self, function: Callable[[Connection], None]) -> Connection:
        """See `RunInFork`."""
        ours, theirs = Pipe()
        self._helpers.append(self._fork(function, theirs, [ours]))
        return ours

    def serve(self, spec: WorkerSpec) -> None:
        """Fork and reap workers, and read the spec's pipes, until the job closes the connection."""
        pipes = list(spec.pipes())
        while True:
            for ready in wait([self._pipe, *pipes]):
                if ready is not self._pipe:
                    assert isinstance(ready, Connection)
                    pipes.remove(ready)
                    self.send(Notice(spec.recv(ready)))
                    continue
                request, index = self.recv()
                if request == "fork":
                    _, [handed], _, _ = socket.recv_fds(self._socket, 1, 1)
                    work = partial(serve, spec.make_worker)
                    self._workers[index] = self._fork(work, Connection(handed), pipes)
                else:
                    _, status = os.waitpid(self._workers.pop(index), 0)
                    self.send(Result(os.waitstatus_to_exitcode(status)))

    def kill_all(self) -> None:
        """Kill all forks and wait for their end."""
        forks = [*self._workers.values(), *self._helpers]
        for fork in forks:
            with suppress(ProcessLookupError):
                os.kill(fork, signal.SIGKILL)
        for fork in forks:
            with suppress(ChildProcessError):
                os.waitpid(fork, 0)

    def _fork(
        self, function: Callable[[Connection], None], pipe: Connection, inherited: Iterable[Connection]
    ) -> int:
        """Call a function with a pipe's end in a process of its own; its process id."""
        child = os.fork()
        if child:
            pipe.close()
            return child
        try:
            self._socket.close()
            self._pipe.close()
            for one in inherited:
                one.close()
            threading.Thread(target=_exit_with_job, args=(self._life_fd,), daemon=True).start()
            function(pipe)
        except BaseException:  # noqa: BLE001 - the stack above belongs to the server: nothing may return into it
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)


def _exit_with_job(life_fd: int) -> None:
    """Exit when the job closes its end of the life pipe, or dies."""
    os.read(life_fd, 1)
    os._exit(1)
