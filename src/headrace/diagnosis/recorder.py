"""Times of requests and deliveries -> steps by kind, and the share of a step that waits for data.

    warmup    the first steps of the loop, and the first of every pass
    settle    after batches were made ahead: until the loop waits again, as it does when nothing was held back
    live      as the loop runs without a diagnosis
    free      the step's batch was in memory before the step began

Live and free blocks alternate (live free live, as A B B A does over two turns), so that drift cancels: a free block is
compared with the live steps on both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from headrace.profile import ConfidenceInterval, share_interval, t_quantile

Kind = Literal["warmup", "settle", "live", "free"]

MIN_LIVE_STEPS = 10
"""Fewer steps say nothing."""
FIRST_LIVE_STEPS = 24
"""Live steps before the first free block."""
MIN_PAIRS = 3
"""Free blocks from which on they are used."""
_MAX_SETTLE = 16
_NOISY = 0.05
"""Free blocks that are less sure than this, as a share of a step, and show nothing, are noise."""
_SLOWS = 0.15
"""A loader that is waited for slows the step by about so much of its waits, on a machine without a free core: a thread
that has just worked wakes later. Measured, 2 cores at load 10: 0.04 to 0.08 of a step beside waits of 0.2 to 0.5."""
_TRIM = 0.2
"""Share of the differences that is left out on each side: other processes make one of them a step long."""
_WAITS = 0.02
"""A wait of this share of a step ends settling: what was made ahead is used up."""


@dataclass(slots=True, kw_only=True)
class _Block:
    kind: Kind
    waits_s: list[float] = field(default_factory=list)
    cycles_s: list[float] = field(default_factory=list)

    @property
    def work_s(self) -> list[float]:
        return [cycle - wait for cycle, wait in zip(self.cycles_s, self.waits_s, strict=True)]


class StepRecorder:
    """The steps of a loop so far, and what follows from them.

    Args:
        warmup_steps: steps that are left out at the beginning.
        block_steps: steps of a free block.
    """

    def __init__(self, *, warmup_steps: int, block_steps: int) -> None:
        self._warmup_left = warmup_steps
        self._block_steps = block_steps
        self._blocks: list[_Block] = []
        self._kind: Kind = "warmup"
        self._settled = 0
        self._requested_s: float | None = None
        self._wait_s = 0.0
        self._given: Kind = "warmup"
        self.steps = 0
        """Steps that are over, of any kind."""

    # --- events ---

    def end_step(self, now_s: float) -> None:
        """The loop asks for a batch: the step before is over."""
        if self._requested_s is None:
            return
        cycle_s, self._requested_s = now_s - self._requested_s, None
        self.steps += 1
        kind = self._given
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind=kind))
        self._blocks[-1].waits_s.append(self._wait_s)
        self._blocks[-1].cycles_s.append(cycle_s)
        if kind == "warmup":
            self._warmup_left -= 1
            if self._warmup_left <= 0:
                self._begin_settling()
        elif kind == "settle":
            self._settled += 1
            if self._wait_s > _WAITS * cycle_s or self._settled >= _MAX_SETTLE:
                self._kind = "live"

    def begin_step(self, requested_s: float, delivered_s: float, *, free: bool) -> None:
        """A batch was asked for and handed over."""
        self._requested_s, self._wait_s = requested_s, delivered_s - requested_s
        if free:
            self._kind = "settle"
            self._settled = 0
        self._given = "free" if free else self._kind

    def begin_pass(self) -> None:
        """A new pass over the loader: its first step is left out, and so is the time since the last pass."""
        self._requested_s = None
        self._warmup_left = max(self._warmup_left, 1)
        self._kind = "warmup"

    def _begin_settling(self) -> None:
        self._kind, self._settled = "settle", 0

    # --- what the loop decides by ---

    @property
    def live_run(self) -> int:
        """Live steps since the last block of another kind."""
        return len(self._blocks[-1].cycles_s) if self._blocks and self._blocks[-1].kind == "live" else 0

    @property
    def live_steps(self) -> int:
        """Live steps so far."""
        return sum(len(block.cycles_s) for block in self._blocks if block.kind == "live")

    @property
    def free_blocks(self) -> int:
        """Free blocks so far that have live steps on both sides."""
        return len(self._differences())

    @property
    def is_free_block_due(self) -> bool:
        """Whether there are enough live steps since the last free block."""
        return self.live_run >= self._block_due_after()

    def _block_due_after(self) -> int:
        first = not any(block.kind == "free" for block in self._blocks)
        return FIRST_LIVE_STEPS if first else 2 * self._block_steps

    @property
    def is_edge(self) -> bool:
        """Whether the step that ends next may be the last of a block, so that a device must have done its work."""
        if self._given != "live":
            return self._given in ("free", "settle")
        return self.live_run + 1 >= self._block_due_after()

    def mean_live_s(self) -> tuple[float, float]:
        """Mean wait and mean duration of a live step, in seconds."""
        waits, cycles = self._live()
        return (float(np.mean(waits)), float(np.mean(cycles))) if cycles else (0.0, 0.0)

    # --- results ---

    def wait_share(self) -> ConfidenceInterval:
        """Share of a live step that passes in `next`."""
        waits, cycles = self._live()
        if len(cycles) < MIN_LIVE_STEPS:
            return ConfidenceInterval(value=share_interval(waits, cycles).value, low=0.0, high=1.0)
        return share_interval(waits, cycles)

    def stall_share(self) -> ConfidenceInterval:
        """Share by which a step would be shorter if data were free.

        The waits, and where there are free blocks, what they show beside: work of the loader that slows the step
        (positive), or waits that a device hides because it still has work (negative).
        """
        waits, further = self.wait_share(), self._further_share()
        if further is None:
            return waits
        value = waits.value + further.value
        # Both reaches are 95 % intervals of independent errors.
        reach = math.hypot(further.half_width, waits.half_width)
        return ConfidenceInterval(value=value, low=value - reach, high=value + reach).clamp(0.0, 0.999)

    @property
    def uses_blocks(self) -> bool:
        """Whether there are enough free blocks to be part of the result."""
        return self._block_share() is not None

    @property
    def is_noisy(self) -> bool:
        """Whether free blocks differ more by noise than by the loader, so that they count for little."""
        shown = self._block_share()
        return shown is not None and self._is_noise(shown)

    def _further_share(self) -> ConfidenceInterval | None:
        """Share of a step that is saved beside the waits; None where there are too few free blocks.

        Where these show nothing but noise, they count by their weight against what a loader can be expected to slow a
        step beside its waits: little where it hardly waits.
        """
        shown = self._block_share()
        if shown is None or not self._is_noise(shown):
            return shown
        wait_s, cycle_s = self.mean_live_s()
        expected = _SLOWS * wait_s / cycle_s
        weight = expected**2 / (expected**2 + (shown.half_width / 2) ** 2)
        value, reach = weight * shown.value, math.sqrt(weight) * shown.half_width
        return ConfidenceInterval(value=value, low=value - reach, high=value + reach)

    def _block_share(self) -> ConfidenceInterval | None:
        differences = self._differences()
        if len(differences) < MIN_PAIRS or self.live_steps < MIN_LIVE_STEPS:
            return None
        _, cycle_s = self.mean_live_s()
        mean_s, error_s, degrees = trimmed_mean(differences)
        value, reach = mean_s / cycle_s, t_quantile(degrees) * error_s / cycle_s
        return ConfidenceInterval(value=value, low=value - reach, high=value + reach)

    def _is_noise(self, shown: ConfidenceInterval) -> bool:
        reach = shown.half_width
        return reach > max(_NOISY, 2 * self.wait_share().half_width) and abs(shown.value) < reach

    def _live(self) -> tuple[list[float], list[float]]:
        waits: list[float] = []
        cycles: list[float] = []
        for block in self._blocks:
            if block.kind == "live":
                until = _whole_bursts(block)
                waits += block.waits_s[:until]
                cycles += block.cycles_s[:until]
        return waits, cycles

    def _differences(self) -> list[float]:
        """For each free block: work of the live steps on both sides, less its own, in seconds a step."""
        found, k = [], self._block_steps
        for i, block in enumerate(self._blocks):
            if block.kind != "free":
                continue
            before = next((b for b in reversed(self._blocks[:i]) if b.kind in ("live", "warmup")), None)
            after = next((b for b in self._blocks[i:] if b.kind in ("live", "warmup")), None)
            if before is None or after is None or "warmup" in (before.kind, after.kind):
                continue
            if len(after.work_s) < k:
                continue
            sides = (np.mean(before.work_s[-k:]) + np.mean(after.work_s[:k])) / 2
            # Its first step still follows a loaded one.
            found.append(float(sides - np.mean(block.cycles_s[1:])))
        return found


def trimmed_mean(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean without the outermost values, its standard error, and its degrees of freedom.

    Source: Yuen 1974. The error is that of the values with the outer ones moved in.

    >>> trimmed_mean([1.0, 2.0, 3.0, 4.0, 100.0])[0]
    3.0
    >>> trimmed_mean([1.0, 2.0, 3.0])[0]
    2.0
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n, cut = len(ordered), int(_TRIM * len(ordered))
    kept = ordered[cut : n - cut]
    moved = np.clip(ordered, kept[0], kept[-1])
    spread = float(np.std(moved, ddof=1)) * math.sqrt((n - 1) / (len(kept) - 1))
    return float(kept.mean()), spread / math.sqrt(len(kept)), len(kept) - 1


def _whole_bursts(block: _Block) -> int:
    """Steps up to the last that waited: workers deliver in bursts, and a part of one has too few waits.

    Settling ends with a wait too, so a block is whole bursts. Where hardly any step waits, all count.
    """
    waiting = [
        i
        for i, (wait, cycle) in enumerate(zip(block.waits_s, block.cycles_s, strict=True))
        if wait > _WAITS * cycle
    ]
    n = len(block.waits_s)
    return waiting[-1] + 1 if len(waiting) >= 3 and waiting[-1] >= n // 2 else n
