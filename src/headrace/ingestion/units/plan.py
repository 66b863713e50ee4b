"""Sources -> units of work, which depend on what the sources hold, never on the number of workers.

A track is a sequence of units that are taken in order. Small files are grouped into one unit. A large file is a
track of several units: byte ranges, or row groups in Parquet. The number of ranges of a large compressed file is
known only when its end has been reached, so its track is open until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import SourceError
from headrace.ingestion.options import SHARD_TEXT_BYTES, ContentOptions
from headrace.ingestion.parse.reader import is_seekable
from headrace.ingestion.read.sources import SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRange:
    """A range of one source."""

    source: int
    """Its index."""
    start: int = 0
    stop: int | None = None
    """None: to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The work that a worker does at a time, and that is done again after a crash."""

    track: int
    part: int
    ranges: tuple[SourceRange, ...]

    @property
    def key(self) -> str:
        """Its name, which sorts in the order of the store."""
        return unit_key(self.track, self.part)


def unit_key(track: int, part: int) -> str:
    """A unit's name; sorts in the order of the store, up to ten million tracks and parts."""
    return f"{track:07d}-{part:07d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Units over the same sources, in order."""

    number: int
    first_source: int
    last_source: int
    bounds: tuple[int, ...] = ()
    """Starts of the parts of one source; empty: one part, all of the sources."""
    step: int = 0
    """> 0: parts of this many bytes, until the source ends."""

    @property
    def is_open(self) -> bool:
        """Is the number of parts unknown?"""
        return self.step > 0

    @property
    def num_parts(self) -> int | None:
        """Parts, where known."""
        return None if self.is_open else max(len(self.bounds), 1)

    def unit(self, part: int) -> Unit:
        """The unit of a part."""
        if self.is_open:
            part_range = SourceRange(
                source=self.first_source, start=part * self.step, stop=(part + 1) * self.step
            )
            return Unit(track=self.number, part=part, ranges=(part_range,))
        if self.bounds:
            stop = self.bounds[part + 1] if part + 1 < len(self.bounds) else None
            part_range = SourceRange(source=self.first_source, start=self.bounds[part], stop=stop)
            return Unit(track=self.number, part=part, ranges=(part_range,))
        ranges = tuple(SourceRange(source=i) for i in range(self.first_source, self.last_source + 1))
        return Unit(track=self.number, part=part, ranges=ranges)


def shard_bytes_for(sources: Sequence[SourceFile]) -> int:
    """Text in a shard: less for a small corpus, so that there are enough units for several workers."""
    total = sum(source.text_bytes for source in sources)
    return SHARD_TEXT_BYTES // (4 if total < 256 << 20 else 2 if total < 1 << 30 else 1)


def plan_tracks(
    sources: Sequence[SourceFile], options: ContentOptions, *, skip_damaged: bool = False
) -> list[Track]:
    """The tracks that cover all sources, in their order.

    Args:
        sources: what is read.
        options: how.
        skip_damaged: a table that cannot be read is one unit, which lists it.

    Raises:
        SourceError: a Parquet file is damaged, or lacks a column.
    """
    tracks: list[Track] = []
    group_from: int | None = None
    group_bytes = 0

    def close_group(before: int) -> None:
        nonlocal group_from, group_bytes
        if group_from is not None:
            tracks.append(Track(number=len(tracks), first_source=group_from, last_source=before - 1))
        group_from, group_bytes = None, 0

    for i, source in enumerate(sources):
        size = source.text_bytes
        try:
            cut = _cut_up(source, size, options)
        except SourceError:
            if not skip_damaged:
                raise
            cut = {"bounds": (0,)}
        if cut is not None:
            close_group(i)
            tracks.append(Track(number=len(tracks), first_source=i, last_source=i, **cut))
            continue
        if group_from is None:
            group_from = i
        group_bytes += size
        if group_bytes >= options.shard_text_bytes:
            close_group(i + 1)
    close_group(len(sources))
    return tracks


def _cut_up(source: SourceFile, size: int, options: ContentOptions) -> dict[str, Any] | None:
    """Parts of a large file; None for one that is to be grouped."""
    step = options.shard_text_bytes
    if size <= step:
        return None
    if source.format in ("parquet", "arrow"):
        return {"bounds": _table_bounds(source, options)}
    if is_seekable(source, options.fields):
        return {"bounds": tuple(range(0, source.nbytes, step))}
    return {"step": step}


def _table_bounds(source: SourceFile, options: ContentOptions) -> tuple[int, ...]:
    """First row groups, or record batches, of the parts of a table."""
    from headrace.ingestion.parse.tables import ArrowBatches, ParquetGroups  # loads pyarrow

    reader: ParquetGroups | ArrowBatches
    if source.format == "parquet":
        reader = ParquetGroups(source.url, source.compression, options.fields)
        sizes = [unpacked for unpacked, _ in reader.group_bytes()]
    else:
        reader = ArrowBatches(source.url, source.compression, options.fields)
        sizes = reader.batch_bytes()
    reader.close()
    bounds, filled = [0], 0
    for i, size in enumerate(sizes):
        if filled and filled + size > options.shard_text_bytes:
            bounds.append(i)
            filled = 0
        filled += size
    return tuple(bounds)
