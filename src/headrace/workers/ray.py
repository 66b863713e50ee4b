"""Tasks -> messages of Ray actors: on the cluster that is there, else on one started on this machine.

Every node must reach the same files under the same paths or URLs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from headrace.errors import ConfigError, HeadraceError
from headrace.workers.messages import Message, Notice, Result, TaskFailed, WorkerDied, task_failed
from headrace.workers.worker import Worker


class RayWorker:
    """One actor. Its worker is made by its first task, so that an error there is a task's error."""

    def __init__(self, make: Callable[[Any], Worker], argument: Any) -> None:
        self._make, self._argument = make, argument
        self._worker: Worker | None = None

    def run(self, task: Any) -> list[Message]:
        """Run a task: its notices, and its result last."""
        if self._worker is None:
            self._worker = self._make(self._argument)
        messages: list[Message] = []
        result = self._worker.run(task, lambda value: messages.append(Notice(value)))
        return [*messages, Result(result)]


class RayTransport:
    """Actors by number.

    Args:
        make: makes a worker of the argument, in the actor.
        argument: of `make`; sent to the cluster once.
        num_workers: cores of a cluster that is started here.
        share_gpus: give each actor its share of the cluster's GPUs.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(
        self,
        make: Callable[[Any], Worker],
        argument: Any,
        *,
        num_workers: int,
        share_gpus: bool = False,
    ) -> None:
        try:
            self._ray: Any = import_module("ray")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "distribute ray needs the ray library. Run: pip install 'headrace[ray]'"
            ) from error
        self._started_here = not self._ray.is_initialized()
        if self._started_here:
            quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
            if os.environ.get("RAY_ADDRESS"):
                self._ray.init(**quiet)
            else:
                self._ray.init(address="local", num_cpus=num_workers, include_dashboard=False, **quiet)
        gpus = float(self._ray.cluster_resources().get("GPU", 0)) if share_gpus else 0.0
        remote = self._ray.remote(num_cpus=1, num_gpus=min(1.0, gpus / num_workers), max_restarts=0)
        self._make, self._argument = make, self._ray.put(argument)
        self._class: Any = remote(RayWorker)
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, int] = {}

    def start(self, number: int) -> None:
        """See `Transport`."""
        self._actors[number] = self._class.remote(self._make, self._argument)

    def send(self, number: int, task: Any) -> None:
        """See `Transport`."""
        self._running[self._actors[number].run.remote(task)] = number

    def poll(self) -> list[tuple[int | None, Message]]:
        """See `Transport`."""
        [ready], _ = self._ray.wait(list(self._running), num_returns=1)
        number = self._running.pop(ready)
        errors = self._ray.exceptions
        try:
            messages: list[Message] = self._ray.get(ready)
        except errors.RayTaskError as error:
            cause = error.cause
            return [
                (
                    number,
                    TaskFailed(cause)
                    if isinstance(cause, HeadraceError | OSError)
                    else task_failed(cause if isinstance(cause, Exception) else error),
                )
            ]
        except errors.RayActorError as error:
            return [(number, WorkerDied(str(error).strip().splitlines()[-1]))]
        return [(number, message) for message in messages]

    def close(self) -> None:
        """See `Transport`."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._running.clear()
        if self._started_here:
            self._ray.shutdown()
            self._started_here = False
