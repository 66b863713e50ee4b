"""Metrics read once a second -> rates and quantiles of the last 15 minutes, for plots that are full at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from headrace.serve.metrics import Histograms

INTERVAL_S = 1.0
KEPT_S = 900
RATE_WINDOW_S = 1.9
"""Rates are taken over two intervals, so that a step that ends a moment late does not look like a pause."""
QUANTILE_WINDOW_S = 10.0
QUANTILES = (0.5, 0.95)
RATES = ("generation_tokens_total", "prompt_tokens_total")
TIMES = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_queue_time_seconds",
    "e2e_request_latency_seconds",
)


Read = Callable[[], tuple[Mapping[str, float], Histograms]]


class MetricsHistory:
    """The last 15 minutes of a server's metrics.

    Args:
        read: returns the metrics now, as `Metrics.read` does.
        clock: seconds since 1970.
    """

    def __init__(self, read: Read, *, clock: Callable[[], float] = time.time) -> None:
        self._read, self._clock = read, clock
        self._recent: deque[tuple[float, Mapping[str, float], Histograms]] = deque()
        self._samples: deque[dict[str, Any]] = deque(maxlen=int(KEPT_S / INTERVAL_S))

    async def run(self) -> None:
        """Take a sample once a second, until cancelled."""
        while True:
            self.take()
            await asyncio.sleep(INTERVAL_S)

    def take(self) -> None:
        """Take one sample now."""
        now = self._clock()
        values, histograms = self._read()
        self._recent.append((now, values, histograms))
        while len(self._recent) > 2 and now - self._recent[1][0] >= QUANTILE_WINDOW_S:
            self._recent.popleft()
        _, earliest, oldest = self._recent[0]
        before, then, _ = next(
            (one for one in reversed(self._recent) if now - one[0] >= RATE_WINDOW_S), self._recent[0]
        )
        sample: dict[str, Any] = {
            "time": now,
            "running": values.get("num_requests_running"),
            "waiting": values.get("num_requests_waiting"),
            "generation_tokens_total": values.get("generation_tokens_total", 0.0),
        }
        for name in RATES:
            grown = values.get(name, 0.0) - then.get(name, 0.0)
            sample[name.replace("_total", "_per_second")] = grown / (now - before) if now > before else None
        looked_up, found = (
            values.get(f"prefix_cache_{name}_total", 0.0) - earliest.get(f"prefix_cache_{name}_total", 0.0)
            for name in ("queries", "hits")
        )
        sample["prefix_cache_hit_rate"] = found / looked_up if looked_up else None
        for name in TIMES:
            sample[name] = [
                quantile(q, histograms.get(name, {}), oldest.get(name, {})) if len(self._recent) > 1 else None
                for q in QUANTILES
            ]
        self._samples.append(sample)

    def after(self, moment: float) -> list[dict[str, Any]]:
        """Samples that were taken after a moment, in seconds since 1970."""
        return [sample for sample in self._samples if sample["time"] > moment]


def quantile(q: float, now: Mapping[float, float], before: Mapping[float, float]) -> float | None:
    """The q-quantile of what a histogram counted between two reads, as Prometheus estimates it.

    Args:
        q: in (0, 1).
        now: upper bound -> count up to it, with an infinite bound.
        before: the same, earlier.

    Returns:
        The value, interpolated inside its bucket; None when nothing was counted.

    >>> quantile(0.5, {1.0: 0, 2.0: 4, float("inf"): 4}, {})
    1.5
    """
    bounds = sorted(now)
    counts = [now[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    rank = q * counts[-1]
    i = next(i for i, count in enumerate(counts) if count >= rank)
    if math.isinf(bounds[i]):
        return bounds[i - 1] if i else None
    low, below = (bounds[i - 1], counts[i - 1]) if i else (0.0, 0.0)
    return low + (bounds[i] - low) * (rank - below) / (counts[i] - below)
