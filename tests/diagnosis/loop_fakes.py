"""A clock that only loaders and steps move, and loaders over it."""

from __future__ import annotations


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class SlowLoader:
    """Batches 0 to n - 1; each takes `load_s` of the clock."""

    def __init__(self, clock, *, n, load_s):
        self.clock, self.n, self.load_s = clock, n, load_s

    def __len__(self):
        return self.n

    def __iter__(self):
        for i in range(self.n):
            self.clock.now_s += self.load_s
            yield [i, i]


class BackgroundLoader(SlowLoader):
    """The same from a thread that makes up to `prefetch` batches ahead."""

    prefetch = 2

    def __iter__(self):
        ready_s, taken = self.clock.now_s, []
        for i in range(self.n):
            begin_s = max(ready_s, taken[i - self.prefetch] if i >= self.prefetch else 0.0)
            ready_s = begin_s + self.load_s
            self.clock.now_s = max(self.clock.now_s, ready_s)
            taken.append(self.clock.now_s)
            yield [i, i]
