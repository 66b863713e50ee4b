"""Seconds of steps, in order -> means, shares and ratios with a 95 % interval that holds for correlated steps.

Steps are not independent: workers deliver in bursts, machines have slow minutes. The interval is a moving-block
bootstrap (Kuensch 1989) whose blocks are as long as the correlation lasts, widened by Student's t for the number of
blocks, so that few or correlated steps give a wide interval and not a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MAX_EXPONENT = 300.0
_RESAMPLES = 300
# Student's t, 97.5 %, for 1 to 30 degrees of freedom; 1.96 beyond.
_T = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
    2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceInterval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    def clamp(self, low: float, high: float) -> ConfidenceInterval:
        """The same, cut to what is possible."""
        return ConfidenceInterval(
            value=min(max(self.value, low), high),
            low=min(max(self.low, low), high),
            high=min(max(self.high, low), high),
        )


def correlation_steps(values: Array) -> int:
    """Steps that count as one independent step: 1 without correlation, more where neighbours are alike.

    The integrated autocorrelation time with Sokal's window.
    """
    n = len(values)
    centred = values - values.mean()
    power = float(centred @ centred)
    if n < 8 or power <= 0:
        return 1
    time = 1.0
    for lag in range(1, n // 4):
        time += 2 * float(centred[:-lag] @ centred[lag:]) / power
        if lag >= 5 * max(time, 1.0):
            break
    return max(1, math.ceil(min(time, n / 4)))


def block_bootstrap(
    columns: Array, statistic: Callable[[Array], Array], *, seed: int = 0
) -> tuple[float, float]:
    """Standard error of a statistic of steps, and its degrees of freedom.

    Args:
        columns: [steps, quantities].
        statistic: from means [resamples, quantities] to values [resamples].
        seed: of the resampling.
    """
    n = len(columns)
    if n < 4:
        return math.inf, 1
    centre = columns.mean(axis=0)
    # What a step adds to the statistic, by its linear part: its correlation decides the blocks.
    step = 1e-4 * np.where(centre == 0, 1.0, np.abs(centre))
    slopes = np.array(
        [
            (statistic((centre + step * unit)[None])[0] - statistic(centre[None])[0]) / step[i]
            for i, unit in enumerate(np.eye(len(centre)))
        ]
    )
    length = min(6 * correlation_steps((columns - centre) @ slopes), max(1, n // 4))
    rng = np.random.default_rng(seed)
    count = math.ceil(n / length)
    starts = rng.integers(0, n, size=(_RESAMPLES, count))
    # Sums of all blocks, round the end: a resample is a few of them, whatever their length.
    sums = np.cumsum(np.vstack([np.zeros((1, columns.shape[1])), columns, columns[: length - 1]]), axis=0)
    block_sums = sums[length:] - sums[:-length]
    values = statistic(block_sums[starts].sum(axis=1) / (count * length))
    blocks = max(2, n // length)
    # Resampling divides by the number of blocks, and not by one less.
    return float(values.std()) * math.sqrt(blocks / (blocks - 1)), blocks - 1


def t_quantile(degrees: float) -> float:
    """Student's t at 97.5 %.

    >>> t_quantile(1), t_quantile(3.7), t_quantile(1000)
    (12.71, 3.18, 1.96)
    """
    whole = int(degrees)
    return _T[max(whole, 1) - 1] if whole <= len(_T) else 1.96


def share_interval(part_s: Sequence[float], whole_s: Sequence[float]) -> ConfidenceInterval:
    """Share that a part of each step has of all steps' time; from 0 to 1 where there are too few steps to say.

    >>> one = share_interval([1.0, 0.9, 1.1, 1.0] * 10, [2.0] * 40)
    >>> 0.45 < one.low < one.value < one.high < 0.55
    True
    """
    columns = np.column_stack([np.asarray(part_s, dtype=float), np.asarray(whole_s, dtype=float)])
    if not len(columns) or columns[:, 1].sum() <= 0:
        return ConfidenceInterval(value=0.0, low=0.0, high=1.0)
    value = float(columns[:, 0].sum() / columns[:, 1].sum())
    error, degrees = block_bootstrap(columns, lambda means: means[:, 0] / means[:, 1])
    reach = t_quantile(degrees) * error
    if not math.isfinite(reach):
        return ConfidenceInterval(value=value, low=0.0, high=1.0)
    return ConfidenceInterval(value=value, low=value - reach, high=value + reach).clamp(0.0, 1.0)


def rate_interval(amounts: Sequence[float], seconds: Sequence[float]) -> ConfidenceInterval:
    """Amount a second over slices of time, such as tokens of each tenth of a second.

    The interval is that of the rate's logarithm: a rate is above 0, however few the slices are.

    >>> one = rate_interval([100, 40, 90] * 10, [0.1] * 30)
    >>> 0 < one.low < one.value < one.high
    True
    """
    columns = np.column_stack([np.asarray(amounts, dtype=float), np.asarray(seconds, dtype=float)])
    if not len(columns) or columns[:, 1].sum() <= 0:
        return ConfidenceInterval(value=0.0, low=0.0, high=math.inf)
    value = float(columns[:, 0].sum() / columns[:, 1].sum())
    error, degrees = block_bootstrap(columns, lambda means: means[:, 0] / means[:, 1])
    if value <= 0 or not math.isfinite(error):
        return ConfidenceInterval(value=value, low=0.0, high=math.inf)
    reach = min(t_quantile(degrees) * error / value, _MAX_EXPONENT)
    return ConfidenceInterval(value=value, low=value * math.exp(-reach), high=value * math.exp(reach))
