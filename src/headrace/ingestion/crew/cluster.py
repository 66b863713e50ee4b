"""A job's units -> records, on a Ray cluster: the same units as on one machine, the same bytes.

Every node must reach the sources and the store under the same paths or URLs. An actor that dies, with its
node or alone, gives its unit back, and another takes its place.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from headrace.errors import ConfigError, WorkerError
from headrace.ingestion.crew.pool import MAX_DEATHS_PER_UNIT, first_failure
from headrace.ingestion.units.schedule import Schedule
from headrace.tokens.gigatoken import slim_results


class Actor:
    """One worker on the cluster; `make` and `setup` are those of `engines`."""

    def __init__(self, make: Callable[[Any], Any], setup: Any) -> None:
        slim_results()
        self._work = make(setup).__enter__()

    def run(self, unit: Any) -> list[tuple[str, Any]]:
        """Do a unit: what a worker process would have said on the way, and at the end."""
        said: list[tuple[str, Any]] = []
        record = self._work.run(unit, lambda progress: said.append(("progress", progress)))
        return [*said, ("done", record)]

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """The answer to a question about the work."""
        return question(self._work)


def run_on_ray(
    make: Callable[[Any], Any],
    setup: Any,
    schedule: Schedule,
    *,
    workers: int,
    heard: Callable[[str, Any], None],
    question: Callable[[Any], Any],
) -> None:
    """Do all units of a schedule; see `pool.Pool.run`.

    Args:
        make: makes a worker's work of the setup.
        setup: what workers start from.
        schedule: says which unit is next.
        workers: actors, one core each.
        heard: called with ("progress", Progress), ("done", UnitRecord) and, once, ("answer", ...).
        question: called by one worker with its work, before any unit.
    """
    with _cluster(workers) as ray:
        remote = ray.remote(num_cpus=1, max_restarts=0)(Actor)
        shared = ray.put(setup)
        start = functools.partial(remote.remote, make, shared)
        actors = {number: start() for number in range(workers)}
        heard("answer", _unwrapped(ray, actors[0].ask.remote(question)))
        deaths: dict[str, int] = {}
        failures: dict[str, BaseException] = {}
        running = {}
        for number, actor in actors.items():
            unit = schedule.next_unit(number)
            if unit is not None:
                running[actor.run.remote(unit)] = (number, unit)
        while running:
            [ready], _ = ray.wait(list(running), num_returns=1)
            number, unit = running.pop(ready)
            try:
                said = ray.get(ready)
            except ray.exceptions.RayActorError as error:
                schedule.give_back(number)
                deaths[unit.key] = deaths.get(unit.key, 0) + 1
                if deaths[unit.key] >= MAX_DEATHS_PER_UNIT:
                    raise WorkerError(
                        f"unit {unit.key}: its worker died {MAX_DEATHS_PER_UNIT} times on the Ray cluster. Out of "
                        f"memory? What is done is kept: run the same command again"
                    ) from error
                actors[number] = start()
            except ray.exceptions.RayTaskError as error:
                schedule.give_back(number)
                failures[unit.key] = error.cause
            else:
                schedule.finish(number, said[-1][1])
                for kind, value in said:
                    heard(kind, value)
            first_failure(failures, schedule)
            after = None if failures else schedule.next_unit(number)
            if after is not None:
                running[actors[number].run.remote(after)] = (number, after)


def _unwrapped(ray: Any, result: Any) -> Any:
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Ray, joined: the cluster that is there (RAY_ADDRESS, or joined before), else one started here."""
    try:
        ray = import_module("ray")
    except ModuleNotFoundError as error:
        raise ConfigError("engine ray needs the ray library. Run: pip install 'headrace[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
