"""A store's stages -> the change that should help most, measured beside the loader as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from headrace.diagnosis.options import StoreOptions
from headrace.diagnosis.store_stages import StoreDiagnosis, make_loader, read_slices, threads_of
from headrace.platform import available_cores
from headrace.profile import ConfidenceInterval, rate_interval
from headrace.store import Store

_TURNS: Final = "ABBA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A change, the speed-up that was predicted, and the one that was measured."""

    change: str
    predicted: ConfidenceInterval
    measured: ConfidenceInterval

    @property
    def held(self) -> bool:
        """Whether the intervals of both overlap."""
        return self.measured.low <= self.predicted.high and self.predicted.low <= self.measured.high

    def to_text(self) -> str:
        """One sentence."""
        one, other = self.predicted, self.measured
        verdict = "held" if self.held else "did not hold"
        return (
            f"tried: {self.change}. Predicted {one.value:.2f} times as fast ({one.low:.2f} to {one.high:.2f}), "
            f"measured {other.value:.2f} ({other.low:.2f} to {other.high:.2f}): the prediction {verdict}."
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "held": self.held}


def try_change(store: Store, found: StoreDiagnosis, options: StoreOptions) -> Trial | None:
    """Measure the first change that applies: cache, shuffle, threads. None where none does.

    Both are measured in turns (A B B A), so that drift of the machine cancels.

    Args:
        store: the store that was diagnosed.
        found: its diagnosis.
        options: the options of that.
    """
    with ExitStack() as stack:
        chosen = _choose(found, options, stack)
        if chosen is None:
            return None
        change, changed, predicted = chosen
        other = store
        if changed.cache_dir != options.cache_dir:
            other = Store.open(store.url, cache_dir=changed.cache_dir)
            stack.callback(other.close)
        as_is = make_loader(store, options, threads=threads_of(store, options))
        stack.callback(as_is.close)
        with_change = make_loader(other, changed, threads=threads_of(other, changed))
        stack.callback(with_change.close)
        rates: dict[str, tuple[list[float], list[float]]] = {"A": ([], []), "B": ([], [])}
        for loader in (as_is, with_change):
            read_slices(loader, 0.3)
        for turn in _TURNS:
            amounts, seconds = read_slices(as_is if turn == "A" else with_change, options.seconds / 2)
            rates[turn][0].extend(amounts)
            rates[turn][1].extend(seconds)
        return Trial(change=change, predicted=predicted, measured=_speedup(rates["A"], rates["B"]))


def _choose(
    found: StoreDiagnosis, options: StoreOptions, stack: ExitStack
) -> tuple[str, StoreOptions, ConfidenceInterval] | None:
    slowest, now = found.slowest, found.threads
    if slowest is None:
        return None
    if slowest.name == "network" and options.cache_dir is None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-diagnose-"))
        return "cache_dir on local disk", replace(options, cache_dir=folder), _without_network(found)
    if slowest.name == "decompression" and options.shuffle == "global":
        predicted = ConfidenceInterval(value=2.0, low=1.0, high=20.0)
        return 'shuffle="blocks"', replace(options, shuffle="blocks"), predicted
    cores = available_cores()
    if slowest.name == "hand-over" and now > 0:
        threads = 0
    elif slowest.name in ("decompression", "gather") and now < cores:
        threads = min(cores, max(1, 2 * now))
    else:
        return None
    gain = _rate(found, threads) / _rate(found, now)
    predicted = ConfidenceInterval(value=gain, low=0.7 * gain, high=1.3 * gain)
    return f"{threads} threads instead of {now}", replace(options, threads=threads), predicted


def _rate(found: StoreDiagnosis, threads: int) -> float:
    """Tokens a second that the stages' ceilings predict: work is shared by threads, handing over is not."""
    now = max(1, min(found.threads, available_cores()))
    work_s = sum(
        now / one.tokens_per_s
        for one in found.stages
        if one.name in ("decompression", "gather") and one.counts
    )
    hand_over_s = sum(1 / one.tokens_per_s for one in found.stages if one.name == "hand-over")
    if not threads:
        return 1 / max(work_s, 1e-12)
    return 1 / max(work_s / min(threads, available_cores()), hand_over_s, 1e-12)


def _without_network(found: StoreDiagnosis) -> ConfidenceInterval:
    """From the second epoch on; in the first one, as it is."""
    others = [one.tokens_per_s for one in found.stages if one.counts and one.name != "network"]
    high = max(1.0, min(others, default=2 * found.tokens_per_s.value) / found.tokens_per_s.value)
    return ConfidenceInterval(value=1.0, low=0.7, high=high)


def _speedup(
    before: tuple[Sequence[float], Sequence[float]], after: tuple[Sequence[float], Sequence[float]]
) -> ConfidenceInterval:
    """Ratio of two independent rates."""
    old, new = rate_interval(*before), rate_interval(*after)
    value = new.value / old.value
    error = ((new.half_width / new.value) ** 2 + (old.half_width / old.value) ** 2) ** 0.5
    return ConfidenceInterval(value=value, low=max(0.0, value * (1 - error)), high=value * (1 + error))
