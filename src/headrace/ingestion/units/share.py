"""Share I of N -> the units that one of several tasks does, such as one of a Slurm array; the same on every machine."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from headrace.errors import ConfigError
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.plan import Track
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import OwnParts, UnitSchedule

FINISH = "finish"
MAX_SHARES = 100_000
_MAX_NAMED = 20

Owners: TypeAlias = dict[int, int]
"""Share of each track that one share does alone; the units of other tracks are dealt out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One of the tasks that make a store together, or the step that commits it."""

    index: int | None
    """From 0 on; None commits what all of them have done."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share of "3/16", or "finish/16".

        >>> Share.parse("3/16")
        Share(index=3, count=16)

        Raises:
            ConfigError: it is neither.
        """
        index, _, count = text.partition("/")
        cure = "expected I/N with I from 0 to N - 1, or finish/N"
        if not (count.isascii() and count.isdecimal() and 1 <= int(count[:9]) <= MAX_SHARES):
            raise ConfigError(f"share is {text!r}; {cure}, N from 1 to {MAX_SHARES:,}")
        if index == FINISH:
            return cls(index=None, count=int(count))
        if not (index.isascii() and index.isdecimal() and int(index[:9]) < int(count)):
            raise ConfigError(
                f"share is {text!r}; {cure}. A Slurm array that begins at 0: --array=0-{int(count) - 1}"
            )
        return cls(index=int(index), count=int(count))

    def __str__(self) -> str:
        return f"{FINISH if self.index is None else self.index}/{self.count}"

    def schedule(
        self, tracks: Sequence[Track], sources: Sequence[SourceFile], done: Iterable[UnitRecord]
    ) -> UnitSchedule:
        """This share's units that are left to do."""
        owners = owners_of(tracks, sources, self.count)
        return _schedule_of(self.index, self.count, owners, tracks, done)

    def missing(
        self, tracks: Sequence[Track], sources: Sequence[SourceFile], done: Sequence[UnitRecord]
    ) -> list[int]:
        """Shares with units that are not done."""
        owners = owners_of(tracks, sources, self.count)
        return [
            index
            for index in range(self.count)
            if not _schedule_of(index, self.count, owners, tracks, done).is_done
        ]


def owners_of(tracks: Sequence[Track], sources: Sequence[SourceFile], count: int) -> Owners:
    """Which share does a track alone.

    A compressed file is a track that is read from its beginning by each task that does some of its units, so where
    there are enough of them each is one share's, the largest ones first and each to the share with the fewest bytes.
    Units of all other tracks are dealt out one by one.
    """
    opened = [track for track in tracks if track.is_open]
    if len(opened) < count:
        return {}
    loads = [(0, index) for index in range(count)]
    owners: Owners = {}
    for track in sorted(opened, key=lambda one: (-sources[one.first_source].nbytes, one.number)):
        load, index = heapq.heappop(loads)
        owners[track.number] = index
        heapq.heappush(loads, (load + sources[track.first_source].nbytes, index))
    return owners


def _schedule_of(
    index: int | None, count: int, owners: Owners, tracks: Sequence[Track], done: Iterable[UnitRecord]
) -> UnitSchedule:
    own: list[OwnParts | None] = []
    units = 0  # counted over all tracks
    for track in tracks:
        if index is None or owners.get(track.number, index) != index:
            own.append(None)
        elif track.number in owners:
            own.append(OwnParts())
        else:
            own.append(OwnParts(first=(index - units) % count, step=count))
        units += track.num_parts or 1
    return UnitSchedule(tracks, done, own=own)


def words_of(shares: Sequence[int], count: int) -> str:
    """Shares as one types them.

    >>> words_of([3, 7], 16)
    '3/16, 7/16'
    """
    more = f" and {len(shares) - _MAX_NAMED} more" if len(shares) > _MAX_NAMED else ""
    return ", ".join(f"{index}/{count}" for index in shares[:_MAX_NAMED]) + more
