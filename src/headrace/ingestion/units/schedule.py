"""Tracks, and units that are done -> which unit an idle worker does next.

A worker continues on its track, whose file it has open at the right position; it takes a new track before it joins
another worker's. The order does not change the store's bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.ingestion.units.plan import Track, Unit
from headrace.ingestion.units.record import UnitRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnParts:
    """Parts of a track that belong to a schedule: the first one, and every `step`-th after it."""

    first: int = 0
    step: int = 1

    def __contains__(self, part: int) -> bool:
        return part >= self.first and (part - self.first) % self.step == 0

    def below(self, parts: int) -> int:
        """How many of the first `parts` parts there are."""
        return len(range(self.first, parts, self.step))


class UnitSchedule:
    """Units that are left to do.

    Args:
        tracks: all tracks of the job.
        done: records of units that are done, of this schedule or not.
        own: parts of each track that belong to this schedule, None where none does; without it, all of them.

    >>> large = Track(number=1, first_source=4, last_source=4, step=10)
    >>> schedule = UnitSchedule([Track(number=0, first_source=0, last_source=3), large])
    >>> [schedule.next_unit(worker).key for worker in (0, 1, 0)]
    ['0000000-0000000', '0000001-0000000', '0000001-0000001']
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        done: Iterable[UnitRecord] = (),
        *,
        own: Sequence[OwnParts | None] | None = None,
    ) -> None:
        self._own = [OwnParts()] * len(tracks) if own is None else list(own)
        self._tracks = list(tracks)
        self._parts: list[int | None] = [track.num_parts for track in tracks]
        self._next = [0 if one is None else one.first for one in self._own]
        self._done: defaultdict[int, set[int]] = defaultdict(set)
        self._unfinished = {
            number
            for number, (one, parts) in enumerate(zip(self._own, self._parts, strict=True))
            if one is not None and (parts is None or one.below(parts))
        }
        self._fresh = 0
        self._started: list[int] = []
        self._again: list[Unit] = []
        self._running: dict[int, Unit] = {}
        self._last_track: dict[int, int] = {}
        for record in done:
            self._close(record.track, record.part, ended=record.ended)

    def next_unit(self, worker: int) -> Unit | None:
        """The unit that a worker should do now; None when there is none left to start."""
        unit = self._again.pop() if self._again else None
        if unit is None and worker in self._last_track:
            unit = self._take(self._last_track[worker])
        while unit is None and self._fresh < len(self._tracks):
            unit = self._take(self._fresh)
            self._started.append(self._fresh)
            self._fresh += 1
        while unit is None and self._started:
            unit = self._take(self._started[0])
            if unit is None:
                self._started.pop(0)
        if unit is not None:
            self._running[worker] = unit
            self._last_track[worker] = unit.track
        return unit

    def finish(self, worker: int, record: UnitRecord) -> None:
        """Take the record of a worker's unit."""
        del self._running[worker]
        self._close(record.track, record.part, ended=record.ended)

    def give_back(self, worker: int) -> Unit | None:
        """A worker died or failed: its unit is given out again, to any worker. None where it had none."""
        unit = self._running.pop(worker, None)
        if unit is not None:
            self._again.append(unit)
        return unit

    def running(self) -> list[Unit]:
        """Units that are running."""
        return list(self._running.values())

    @property
    def is_done(self) -> bool:
        """Is every unit done?"""
        return not self._unfinished

    def is_own(self, record: UnitRecord) -> bool:
        """Is a record that of a unit of this schedule?"""
        own = self._own[record.track]
        return own is not None and record.part in own

    def belongs(self, record: UnitRecord) -> bool:
        """Is a record part of the store? Not if it is past its track's end."""
        parts = self._parts[record.track]
        return parts is not None and record.part < parts

    def _close(self, number: int, part: int, *, ended: bool) -> None:
        own = self._own[number]
        if own is not None and part in own:
            self._done[number].add(part)
        parts = self._parts[number]
        if self._tracks[number].is_open and ended:
            parts = self._parts[number] = part + 1 if parts is None else min(parts, part + 1)
        if own is None or parts is None:
            return
        done = self._done[number]
        if (sum(one < parts for one in done) if self._tracks[number].is_open else len(done)) == own.below(
            parts
        ):
            self._unfinished.discard(number)

    def _take(self, number: int) -> Unit | None:
        """The next unit of a track that is neither done nor running."""
        own, parts = self._own[number], self._parts[number]
        if own is None:
            return None
        while self._next[number] in self._done[number]:
            self._next[number] += own.step
        part = self._next[number]
        if parts is not None and part >= parts:
            return None
        self._next[number] += own.step
        return self._tracks[number].unit(part)
