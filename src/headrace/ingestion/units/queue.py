"""A schedule of units -> tasks for a worker pool: what a failed unit and a dead worker mean."""

from __future__ import annotations

from headrace.errors import WorkerError
from headrace.ingestion.units.plan import Unit
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import UnitSchedule
from headrace.workers import WorkerDied

MAX_DEATHS_PER_UNIT = 3


class UnitQueue:
    """Units of one schedule; see `headrace.workers.TaskQueue`.

    When a unit fails, no further unit is started. The error of the first failed unit in the store's order is raised
    as soon as no unit before it is running: the same error, whatever the number of workers. It is raised when the next
    task is asked for, so that the record of the unit before has been taken.
    """

    def __init__(self, schedule: UnitSchedule) -> None:
        self._schedule = schedule
        self._deaths: dict[str, int] = {}
        self._failures: dict[str, Exception] = {}

    @property
    def is_done(self) -> bool:
        """See `TaskQueue`."""
        return self._schedule.is_done and not self._failures

    def next_task(self, worker: int) -> Unit | None:
        """See `TaskQueue`."""
        self._raise_first_failure()
        return None if self._failures else self._schedule.next_unit(worker)

    def finish(self, worker: int, result: UnitRecord) -> None:
        """See `TaskQueue`."""
        self._schedule.finish(worker, result)

    def fail(self, worker: int, error: Exception) -> None:
        """See `TaskQueue`."""
        unit = self._schedule.give_back(worker)
        self._failures["" if unit is None else unit.key] = error

    def give_back(self, worker: int, died: WorkerDied) -> None:
        """See `TaskQueue`.

        Raises:
            WorkerError: this unit's workers died three times.
        """
        unit = self._schedule.give_back(worker)
        key = "-" if unit is None else unit.key
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= MAX_DEATHS_PER_UNIT:
            raise WorkerError(
                f"unit {key}: its worker died {MAX_DEATHS_PER_UNIT} times, last with {died.reason}. "
                f"Out of memory? Use fewer workers. What is done is kept: run the same command again"
            )

    def _raise_first_failure(self) -> None:
        first = min(self._failures, default=None)
        if first is not None and not any(unit.key < first for unit in self._schedule.running()):
            raise self._failures[first]
