"""A loader's time for a batch and a step -> what other methods say of how much of a step waits for its data.

Each is written anew from its description, in a few lines, and gives one number without an interval or a cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

Loop = Callable[[Iterable[Any]], tuple[float, float]]
"""Runs a loop; mean seconds of a step's work and of a whole step."""


def headspace(loop: Loop, loader: Iterable[Any], steps: int) -> float:
    """SPDL's CacheDataLoader: live steps against steps on one cached batch, whose results are thrown away."""
    _, live_s = loop(loader)
    _, cached_s = loop([[0]] * steps)
    return 1 - cached_s / live_s


def roofline(loop: Loop, loader: Iterable[Any], steps: int) -> float:
    """Loader and step each measured alone: a step takes the longer of both, as if they always ran side by side."""
    start, count = time.perf_counter(), 0
    for _ in loader:
        count += 1
    load_s = (time.perf_counter() - start) / count
    step_s, _ = loop([[0]] * steps)
    return 1 - step_s / max(step_s, load_s)


class _Batches:
    """Batches that a DataLoader makes in the loop's own process."""

    def __init__(self, work: Callable[[], None], batches: int) -> None:
        self.work, self.batches = work, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> int:
        self.work()
        return index


def torch_profiler(loop: Loop, work: Callable[[], None], steps: int) -> float:
    """torch.profiler around the loop: the ranges that DataLoader's __next__ records, over the loop's time."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(_Batches(work, steps), batch_size=None)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        start = time.perf_counter()
        loop(loader)
        wall_s = time.perf_counter() - start
    waits_us = sum(
        one.cpu_time_total for one in seen.key_averages() if one.key.startswith("enumerate(DataLoader)")
    )
    return float(waits_us) / 1e6 / wall_s
