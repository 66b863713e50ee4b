"""Units -> records, by long-lived worker processes that die with their parent.

Workers come from a nursery, which loads once what all of them need. A worker that dies gives its unit back, and
another takes its place.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from headrace.errors import WorkerError
from headrace.ingestion.crew.nursery import Nursery, exit_words, failure
from headrace.ingestion.units.plan import Unit
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import Schedule
from headrace.ingestion.work.intake import Progress

MAX_DEATHS_PER_UNIT = 3


class Works(Protocol):
    """What a worker does with a unit."""

    def run(self, unit: Unit, progress: Callable[[Progress], None]) -> UnitRecord:
        """Do it; say how it gets on."""


class Pool:
    """Workers of one nursery that has been told what to load."""

    def __init__(self, nursery: Nursery, size: int) -> None:
        self._nursery = nursery
        self._pipes = {number: nursery.fork() for number in range(size)}
        self._deaths: dict[str, int] = {}

    def run(self, schedule: Schedule, heard: Callable[[str, Any], None], *, answers: bool) -> None:
        """Do all units of a schedule.

        Args:
            schedule: says which unit is next.
            heard: called with ("progress", Progress), ("done", UnitRecord) and, once, ("answer", ...).
            answers: does the nursery have an answer to give, and is nothing done before it is there?

        Raises:
            HeadraceError: what a worker raised: of the first unit in the store's order, of those that failed.
            WorkerError: a unit killed its worker again and again.
        """
        failures: dict[str, BaseException] = {}
        idle = {number for number in self._pipes if not self._give(number, schedule)}

        def nursery_said(kind: str, value: Any) -> None:
            nonlocal answers
            if kind == "failed":
                raise value[1]
            answers = False
            heard(kind, value)

        while answers or not schedule.is_done:
            busy: dict[Any, int] = {
                pipe: number for number, pipe in self._pipes.items() if number not in idle
            }
            if not busy and not answers:
                break
            for pipe in wait([self._nursery.pipe, *busy]):
                if pipe is self._nursery.pipe:
                    nursery_said(*self._nursery.hear())
                    continue
                number = busy[pipe]
                try:
                    kind, value = pickle.loads(self._pipes[number].recv_bytes())  # noqa: S301 - ours
                except (EOFError, ConnectionError):
                    self._replace(number, schedule, nursery_said)
                    kind, value = "died", None
                if kind == "progress":
                    heard(kind, value)
                    continue
                if kind == "failed":
                    key, error = value
                    failures[key] = error
                    schedule.give_back(number)
                elif kind == "done":
                    schedule.finish(number, value)
                    heard(kind, value)
                if failures:
                    idle.add(number)
                    first_failure(failures, schedule)
                elif not self._give(number, schedule):
                    idle.add(number)
        if failures:
            raise failures[min(failures)]

    def _give(self, number: int, schedule: Schedule) -> bool:
        unit = schedule.next_unit(number)
        if unit is not None:
            # A worker that is gone is met again where its pipe is read.
            with suppress(ConnectionError):
                self._pipes[number].send_bytes(pickle.dumps(unit))
        return unit is not None

    def _replace(self, number: int, schedule: Schedule, heard: Callable[[str, Any], None]) -> None:
        code = self._nursery.reap(heard)
        self._pipes[number].close()
        unit = schedule.give_back(number)
        key = unit.key if unit is not None else "-"
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= MAX_DEATHS_PER_UNIT:
            raise WorkerError(
                f"unit {key}: its worker died {MAX_DEATHS_PER_UNIT} times, last with {exit_words(code)}. "
                f"Out of memory? Use fewer workers. What is done is kept: run the same command again"
            )
        self._pipes[number] = self._nursery.fork()


def first_failure(failures: Mapping[str, BaseException], schedule: Schedule) -> None:
    """Raise the failure of the first unit in the store's order, once no unit before it is at work any more."""
    first = min(failures, default=None)
    if first is not None and not any(unit.key < first for unit in schedule.running()):
        raise failures[first]


def serve(make: Callable[[], AbstractContextManager[Works]], pipe: Connection) -> None:
    """A worker's life: units until the pipe closes.

    Args:
        make: makes its work.
        pipe: brings units; takes ("progress", Progress), ("done", UnitRecord), ("failed", (key, error)).
    """
    unit: Unit | None = None
    try:
        with make() as work:
            while (unit := _next(pipe)) is not None:
                record = work.run(
                    unit, lambda progress: pipe.send_bytes(pickle.dumps(("progress", progress)))
                )
                pipe.send_bytes(pickle.dumps(("done", record)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        pipe.send_bytes(failure(unit.key if unit is not None else "", error))
        # Stay until the parent has read it and lets go of us.
        threading.Event().wait()


def _next(pipe: Connection) -> Unit | None:
    try:
        unit: Unit = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our parent
    except (EOFError, ConnectionError):
        return None
    return unit
