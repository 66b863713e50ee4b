"""Seconds of each call -> the number of threads for the next call: fewer where other processes use the cores.

Threads that share each layer of a token wait for the slowest of them some two hundred times a token. Where another
process has a core, the others wait for its time slices: SmolLM2-135M on 2 cores with 11 other runnable threads made 1.2
tokens/s with two threads and 11 with one. The results do not depend on the number of threads.
"""

from __future__ import annotations

WINDOW = 8
"""Calls that are averaged."""
FIRST_TRIAL, LAST_TRIAL = 64, 1024
"""Calls between trials of another number of threads; doubled after each trial that changes nothing."""
SLOWER = 1.3
"""A window that took so many times the time of the last decision makes a trial due."""
FASTER = 0.9
"""Another number of threads is taken when it needs less than this share of the time."""


class ThreadCount:
    """The number of threads that has been fastest lately.

    >>> count = ThreadCount(2)
    >>> for _ in range(40):
    ...     count.record(1.0 if count.value == 2 else 0.1)
    >>> count.value
    1

    Args:
        most: threads on an idle machine.
    """

    def __init__(self, most: int) -> None:
        self.value = most
        self._choices = sorted({most, *(2**i for i in range(most.bit_length()) if 2**i <= most)})
        self._chosen = most
        self._window: list[float] = []
        self._expected: float | None = None
        """Mean seconds of the chosen number at the last decision."""
        self._trials: list[int] = []
        """Numbers of threads that are still to be tried."""
        self._interval, self._until_trial = FIRST_TRIAL, 0

    def record(self, seconds: float) -> None:
        """Take the time of a call that ran with `value` threads."""
        self._window.append(seconds)
        self._until_trial -= 1
        total = sum(self._window)
        # A trial that is clearly slower ends at once: on a busy machine one call can take as long as ten.
        hopeless = self._is_trial and self._expected is not None and total > WINDOW * self._expected
        if len(self._window) < WINDOW and not hopeless:
            return
        mean = total / len(self._window)
        self._window.clear()
        if self._is_trial:
            self._end_trial(mean)
        elif self._expected is None or mean > SLOWER * self._expected or self._until_trial <= 0:
            self._expected = mean
            self._trials = self._neighbours()
            self._next_trial()

    @property
    def _is_trial(self) -> bool:
        return self.value != self._chosen

    def _neighbours(self) -> list[int]:
        at = self._choices.index(self._chosen)
        return self._choices[max(0, at - 1) : at] + self._choices[at + 1 : at + 2]

    def _end_trial(self, mean: float) -> None:
        assert self._expected is not None
        if mean < FASTER * self._expected:
            self._chosen, self._expected, self._interval = self.value, mean, FIRST_TRIAL
            self._trials = [one for one in self._neighbours() if one < self._chosen]
        self._next_trial()

    def _next_trial(self) -> None:
        if self._trials:
            self.value = self._trials.pop(0)
            return
        self.value = self._chosen
        self._until_trial = self._interval
        self._interval = min(2 * self._interval, LAST_TRIAL)
