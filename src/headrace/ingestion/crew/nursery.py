"""What all workers need -> a process that loads it once, and forks them: one start for all of them.

It is started by the interpreter alone, not by multiprocessing: a script that calls `ingest` needs no
`if __name__ == "__main__"`, and threads or locks of the parent are not copied. It has one thread itself, so
that its forks are safe. It can be started before anybody knows what to load: its imports then run beside the
parent's. This module is loaded first on both sides, and loads nothing heavy itself.

    parent -> nursery      a pickled `Nurture`; then ("fork", number) with a pipe's end, ("reap", number)
    (its arguments)        what will be wanted: it is loaded while the parent plans
    nursery -> parent      ("answer", value) once; ("exit", code) of a worker; ("failed", ("", error))
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Protocol, TypeAlias

from headrace.errors import HeadraceError, WorkerError

_BOOT = (
    "import json, os, sys; sys.path[:] = json.loads(os.environ.pop('HEADRACE_SYS_PATH')); "
    "from headrace.ingestion.crew.nursery import main; main(*map(int, sys.argv[1:3]), sys.argv[3:])"
)
_AHEAD = ("headrace.ingestion.crew.engines", "gigatoken.gigatoken_rs", "isal.igzip", "simdjson")
_END_S = 10.0


Beside: TypeAlias = Callable[[Callable[[Connection], None]], Connection]
"""Does something in a fork of the nursery, which takes one end of a pipe; gives the other end."""


class Charge(Protocol):
    """What a nursery has loaded, from which each worker takes its work."""

    def pipes(self) -> Sequence[Connection]:
        """Pipes to listen to; `hear` is called when one can be read."""

    def hear(self, pipe: Connection) -> Any:
        """The answer to the parent, when what was asked on the side is known."""

    def work(self, pipe: Connection) -> None:
        """A worker's life, in a process of its own, until its pipe closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nurture:
    """What to load: a function at the top of a module, and its argument.

    The function is called with the argument, a way to do something beside, and what was loaded ahead, or None.
    """

    load: Callable[[Any, Beside, Any], Charge]
    argument: Any


class Nursery:
    """The parent's side."""

    def __init__(self, ahead: Sequence[str] = ()) -> None:
        """Start it.

        Args:
            ahead: what will be wanted, as far as it is known by now; see `engines.Ahead.of`.
        """
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._pipe = Connection(os.dup(ours.fileno()))
        life_read, self._life = os.pipe()
        environment = {
            **os.environ,
            "HEADRACE_SYS_PATH": json.dumps(sys.path),
            "TOKENIZERS_PARALLELISM": "false",
            "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads cost 0.07 s of CPU at each start, and do nothing here
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(life_read), *ahead],
            pass_fds=(theirs.fileno(), life_read),
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C is ours to handle
        )
        theirs.close()
        os.close(life_read)

    @property
    def pipe(self) -> Connection:
        """Where `hear` has something to read."""
        return self._pipe

    def load(self, nurture: Nurture) -> None:
        """Say what to load; workers can be asked for at once."""
        self._send(nurture)

    def fork(self) -> Connection:
        """A worker, which is there as soon as all is loaded; our end of its pipe."""
        ours, theirs = socket.socketpair()
        self._send("fork")
        with suppress(ConnectionError):  # met again in `hear`
            socket.send_fds(self._socket, [b"f"], [theirs.fileno()])
        theirs.close()
        return Connection(ours.detach())

    def reap(self, heard: Callable[[str, Any], None]) -> int:
        """Exit code of a worker whose pipe has closed (below 0: minus the signal); `heard` gets the rest."""
        self._send("reap")
        while (said := self.hear())[0] != "exit":
            heard(*said)
        return int(said[1])

    def hear(self) -> tuple[str, Any]:
        """What the nursery says next.

        Raises:
            WorkerError: it is gone.
        """
        try:
            said: tuple[str, Any] = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - ours
        except (EOFError, ConnectionError):
            raise WorkerError(
                f"the process that starts the workers died with {exit_words(self._process.wait())}. Out of memory? "
                f"Use fewer workers. What is done is kept: run the same command again"
            ) from None
        return said

    def dismiss(self) -> None:
        """Let the nursery and all its workers go, whatever they are at, and do not wait."""
        if self._socket.fileno() >= 0:
            os.close(self._life)  # each worker leaves when it sees this
            self._pipe.close()
            self._socket.close()  # and the nursery kills those that have not, and leaves

    def close(self) -> None:
        """Stop the nursery and all its workers, whatever they are at."""
        self.dismiss()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, what: Any) -> None:
        with suppress(ConnectionError):  # met again in `hear`
            self._pipe.send_bytes(pickle.dumps(what))


@contextmanager
def open_nursery(ahead: Sequence[str] = ()) -> Iterator[Nursery]:
    """A nursery that is stopped at the end, with all its workers; see `Nursery`."""
    nursery = Nursery(ahead)
    try:
        yield nursery
    finally:
        nursery.close()


def main(socket_fd: int, life_fd: int, wanted: Sequence[str] = ()) -> None:
    """The nursery process: load, then fork until the parent lets go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # nothing of what is loaded goes away again
    control = socket.socket(fileno=socket_fd)
    pipe = Connection(os.dup(socket_fd))
    for module in _AHEAD:  # while the parent makes up its mind
        import_module(module)

    workers: list[int] = []
    helpers: list[int] = []

    def beside(do: Callable[[Connection], None]) -> Connection:
        ours, theirs = Pipe()
        helpers.append(_fork(do, theirs, life_fd, [control, pipe, ours]))
        return ours

    try:
        ahead = None
        if wanted:
            with suppress(Exception):  # the parent meets it as well, and says it better
                ahead = import_module("headrace.ingestion.crew.engines").Ahead.of(beside, *wanted)
        nurture = _heard(pipe)
        charge = nurture.load(nurture.argument, beside, ahead)
        gc.freeze()  # pages that no collection writes to stay shared
        gc.enable()
        side = list(charge.pipes())
        while True:
            for ready in wait([pipe, *side]):
                if ready is not pipe:
                    side.remove(ready)
                    _say(pipe, "answer", charge.hear(ready))
                elif _heard(pipe) == "fork":
                    _, [handed], _, _ = socket.recv_fds(control, 1, 1)
                    workers.append(_fork(charge.work, Connection(handed), life_fd, [control, pipe, *side]))
                else:
                    _say(pipe, "exit", _reaped(workers, helpers))
    except _ParentGone:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        with suppress(_ParentGone, ConnectionError):
            pipe.send_bytes(failure("", error))
            while True:  # stay until the parent has read it and lets go of us
                _heard(pipe)
    finally:
        _end([*workers, *helpers])
        os._exit(0)  # taking the interpreter down in order would keep the parent waiting


class _ParentGone(Exception):
    pass


def _heard(pipe: Connection) -> Any:
    try:
        return pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our parent
    except (EOFError, ConnectionError):
        raise _ParentGone from None


def _say(pipe: Connection, kind: str, value: Any) -> None:
    try:
        pipe.send_bytes(pickle.dumps((kind, value)))
    except ConnectionError:
        raise _ParentGone from None


def _fork(
    do: Callable[[Connection], None],
    pipe: Connection,
    life_fd: int,
    ours: Sequence[socket.socket | Connection],
) -> int:
    """Do something with a pipe's end in a process of its own."""
    child = os.fork()
    if child:
        pipe.close()
        return child
    try:
        for one in ours:
            one.close()
        threading.Thread(target=_die_with_parent, args=(life_fd,), daemon=True).start()
        do(pipe)
    except BaseException:  # noqa: BLE001 - nothing may get out: what is on the stack belongs to the nursery
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _reaped(workers: list[int], helpers: list[int]) -> int:
    while True:
        child, status = os.waitpid(-1, 0)
        if child in workers:
            workers.remove(child)
            return os.waitstatus_to_exitcode(status)
        helpers.remove(child)


def _end(children: Sequence[int]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    for child in children:
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def _die_with_parent(life_fd: int) -> None:
    os.read(life_fd, 1)
    os._exit(1)


def failure(key: str, error: Exception) -> bytes:
    """A message that a unit failed; an error that is not ours goes with its traceback."""
    if not isinstance(error, (HeadraceError, OSError)):
        import traceback

        error = WorkerError(f"a worker failed: {''.join(traceback.format_exception(error))}")
    error.__cause__ = error.__context__ = None
    return pickle.dumps(("failed", (key, error)))


def exit_words(code: int) -> str:
    """An exit code for people."""
    return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
