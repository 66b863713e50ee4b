"""Requests -> rows, by workers that hold an engine each: processes of this machine, or actors of a Ray cluster.

Both take the same words: `begin` a swap with a worker, `wait` for the next answer, `start` a worker again.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from headrace.errors import ConfigError, HeadraceError, WorkerError
from headrace.generation.request import Request
from headrace.generation.share.exchange import About, Answer, Exchange, Setup

_BOOT = (
    "import json, os, sys; sys.path[:] = json.loads(os.environ.pop('HEADRACE_SYS_PATH')); "
    "from headrace.generation.share.exchange import worker_main; worker_main(int(sys.argv[1]))"
)


@dataclass(frozen=True, slots=True)
class Died:
    """A worker that is gone, and how."""

    how: str


Said = About | Answer | HeadraceError | Died


class Crew(Protocol):
    """Workers by number."""

    def start(self, number: int) -> None:
        """Start a worker; its first word is what it loaded."""

    def begin(self, number: int, requests: Sequence[Request], *, last: bool) -> None:
        """Begin a swap with a worker that has answered."""

    def wait(self) -> tuple[int, Said]:
        """The next answer of any worker that owes one."""

    def close(self) -> None:
        """Stop all workers, whatever they are at."""


class LocalCrew:
    """Processes of this machine.

    Args:
        setups: what each worker loads.
    """

    def __init__(self, setups: Sequence[Setup]) -> None:
        self._setups = setups
        self._workers: dict[int, tuple[subprocess.Popen[bytes], Connection]] = {}
        self._owing: set[int] = set()

    def start(self, number: int) -> None:
        """Start a process; its first word is what it loaded."""
        self._stop(number)
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "HEADRACE_SYS_PATH": json.dumps(sys.path)},
                process_group=0,  # Ctrl-C is ours to handle
            )
        pipe = Connection(ours.detach())
        self._workers[number] = (process, pipe)
        self._owing.add(number)
        with suppress(OSError):  # it is dead already: `wait` says so
            pipe.send_bytes(pickle.dumps(self._setups[number]))

    def begin(self, number: int, requests: Sequence[Request], *, last: bool) -> None:
        """Begin a swap."""
        self._owing.add(number)
        with suppress(OSError):
            self._workers[number][1].send_bytes(pickle.dumps((requests, last)))

    def wait(self) -> tuple[int, Said]:
        """The next answer of any process that owes one."""
        ready = wait([self._workers[number][1] for number in self._owing])
        number = next(number for number in sorted(self._owing) if self._workers[number][1] in ready)
        self._owing.remove(number)
        process, pipe = self._workers[number]
        try:
            said: Said = pickle.loads(pipe.recv_bytes())  # noqa: S301  # from our own child
        except (EOFError, OSError):
            code = process.wait()
            return number, Died(f"signal {-code}" if code < 0 else f"exit code {code}")
        return number, said

    def pids(self) -> list[int]:
        """Process ids, by worker."""
        return [process.pid for _, (process, _) in sorted(self._workers.items())]

    def close(self) -> None:
        """Stop all processes."""
        for number in list(self._workers):
            self._stop(number)

    def _stop(self, number: int) -> None:
        if number in self._workers:
            process, pipe = self._workers.pop(number)
            self._owing.discard(number)
            pipe.close()
            process.kill()
            process.wait()


class RayCrew:
    """Actors of a Ray cluster: the one that is there (RAY_ADDRESS, or joined before), else one started here.

    Every node must reach the model under the same path; only this process writes predictions.

    Args:
        setups: what each worker loads.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, setups: Sequence[Setup]) -> None:
        try:
            self._ray: Any = import_module("ray")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "generate: distribute ray needs the ray library. Run: pip install 'headrace[ray]'"
            ) from error
        self._setups, self._ours = setups, not self._ray.is_initialized()
        if self._ours:
            quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
            if os.environ.get("RAY_ADDRESS"):
                self._ray.init(**quiet)
            else:
                self._ray.init(address="local", num_cpus=len(setups), include_dashboard=False, **quiet)
        gpus = float(self._ray.cluster_resources().get("GPU", 0))
        share = min(1.0, gpus / len(setups)) if setups[0].device in ("auto", "cuda") else 0.0
        self._actor: Any = self._ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(Exchange)
        self._actors: dict[int, Any] = {}
        self._owing: dict[Any, int] = {}

    def start(self, number: int) -> None:
        """Start an actor; its first word is what it loaded."""
        self._actors[number] = actor = self._actor.remote(self._setups[number])
        self._owing[actor.load.remote()] = number

    def begin(self, number: int, requests: Sequence[Request], *, last: bool) -> None:
        """Begin a swap."""
        self._owing[self._actors[number].swap.remote(requests, last=last)] = number

    def wait(self) -> tuple[int, Said]:
        """The next answer of any actor that owes one."""
        [ready], _ = self._ray.wait(list(self._owing), num_returns=1)
        number = self._owing.pop(ready)
        errors = self._ray.exceptions
        try:
            said: Said = self._ray.get(ready)
        except errors.RayTaskError as error:
            cause = error.cause
            return number, cause if isinstance(cause, HeadraceError) else WorkerError(
                f"a worker failed: {cause!r}"
            )
        except errors.RayActorError as error:
            return number, Died(str(error).strip().splitlines()[-1])
        return number, said

    def close(self) -> None:
        """Stop all actors, and the cluster where it was started here."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._owing.clear()
        if self._ours:
            self._ray.shutdown()
            self._ours = False
