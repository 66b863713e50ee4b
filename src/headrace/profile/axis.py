"""A range of numbers -> round ticks and their labels."""

from __future__ import annotations

import math


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers within [low, high], in steps of 1, 2, 2.5 or 5 times a power of ten.

    >>> ticks(0, 97)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    >>> ticks(2.9, 8.4)
    [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A tick's label: 1,500 -> "1.5k".

    >>> [short(v) for v in (0, 0.25, 3, 250, 1000, 12500, 2e6)]
    ['0', '0.25', '3', '250', '1k', '12.5k', '2M']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
