"""Seconds that looking has cost so far -> when to look next, so that a loop loses no more than a share of its time.

The first looks are made whatever they cost, up to a bound: a loop of a few seconds would be over before it was seen.
Beside a thread of Python work each look waits for the GIL, up to 5 ms, and may take another thread's turn at it: such
waits are cost, too.
"""

from __future__ import annotations

from typing import Final

TICK_S: Final = 0.005
"""Seconds between two looks at most often."""
SHARE: Final = 0.008
"""Share of the time that looking may cost after the first looks."""
FIRST_SAMPLES: Final = 20
"""Samples that name a limiter as well as more would."""
FIRST_S: Final = 0.3
"""Seconds that the first looks may cost."""
_LONGEST_S: Final = 5.0


class SamplingPace:
    """What looking has cost, and the pause before the next look.

    Args:
        tick_s: the shortest pause.
    """

    def __init__(self, *, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self.spent_s = 0.0
        """Seconds that looking cost: work, and waits for the GIL."""
        self._first_s = 0.0
        """Seconds that the first looks cost."""

    def add(self, cost_s: float, *, samples: int) -> None:
        """Count what a look cost.

        Args:
            cost_s: seconds of work, and of waits for the GIL.
            samples: looks so far, this one included, that saw the loop wait.
        """
        self.spent_s += max(0.0, cost_s)
        if samples <= FIRST_SAMPLES and self._first_s < FIRST_S:
            self._first_s = self.spent_s

    def pause_s(self, *, elapsed_s: float) -> float:
        """Seconds until the next look.

        Args:
            elapsed_s: since looking began.

        >>> pace = SamplingPace()
        >>> pace.add(0.1, samples=1)
        >>> pace.pause_s(elapsed_s=1.0)
        0.005
        >>> pace.add(0.01, samples=21)
        >>> round(pace.pause_s(elapsed_s=1.0), 3)
        0.25
        """
        due_s = (self.spent_s - self._first_s) / SHARE
        return min(max(due_s - elapsed_s, self._tick_s), _LONGEST_S)
