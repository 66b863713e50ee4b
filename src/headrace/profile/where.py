"""Seconds by stage -> which stage is slowest, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long one stage took, and whether the run had to stand still for it."""

    name: str
    """reading | decoding | waiting | compute | evaluation | checkpoint | generating | output | other."""
    seconds: float
    overlaps: bool = False
    """True: worked in background threads, beside compute; not part of the wall time."""

    @property
    def doing(self) -> str:
        """The stage as the end of "the run spent its time ..."."""
        return _DOING.get(self.name, f"in {self.name}")


_DOING = {
    "reading": "reading the store",
    "decoding": "decoding blocks",
    "waiting": "waiting for data",
    "compute": "in compute",
    "evaluation": "in evaluation",
    "checkpoint": "writing checkpoints",
    "generating": "generating predictions",
    "output": "storing predictions",
    "other": "on other things",
}


def wall_seconds(stages: Sequence[StageTime]) -> float:
    """Sum of the stages that the run stood still for."""
    return sum(stage.seconds for stage in stages if not stage.overlaps)


def slowest(stages: Sequence[StageTime]) -> StageTime | None:
    """The stage with the most wall time; None when nothing was timed."""
    return max((s for s in stages if not s.overlaps and s.seconds > 0), key=lambda s: s.seconds, default=None)


def sentence(stages: Sequence[StageTime]) -> str:
    """Where the time went, in words: the slowest stage first, then the others, then the background.

    >>> print(
    ...     sentence(
    ...         [
    ...             StageTime(name="reading", seconds=0.5, overlaps=True),
    ...             StageTime(name="waiting", seconds=1.0),
    ...             StageTime(name="compute", seconds=93.0),
    ...             StageTime(name="checkpoint", seconds=6.0),
    ...         ]
    ...     )
    ... )
    The run spent 93 % of its 1 min 40 s in compute; 6 % writing checkpoints, 1 % waiting for data. Reading \
took 500 ms in the background, hidden behind compute.
    """
    top = slowest(stages)
    if top is None:
        return "Nothing was timed yet."
    wall = wall_seconds(stages)
    # Small parts are in the table; how long it waited for data is always said.
    rest = sorted(
        (
            s
            for s in stages
            if not s.overlaps and s is not top and (s.seconds >= 0.01 * wall or s.name == "waiting")
        ),
        key=lambda s: -s.seconds,
    )
    text = f"The run spent {percent(top.seconds / wall)} of its {duration(wall)} {top.doing}"
    if rest:
        text += "; " + ", ".join(f"{percent(s.seconds / wall)} {s.doing}" for s in rest)
    return f"{text}.{_background(stages, top)}"


def _background(stages: Sequence[StageTime], top: StageTime) -> str:
    hidden = [s for s in stages if s.overlaps and s.seconds > 0]
    if not hidden:
        return ""
    if top.name == "waiting":
        # The run stood still for its data: say what the data stood still for.
        cause = max(hidden, key=lambda s: s.seconds)
        return f" What it waited for is {cause.name}: {duration(cause.seconds)} of work in the background."
    names = " and ".join(s.name for s in hidden).capitalize()
    return (
        f" {names} took {duration(sum(s.seconds for s in hidden))} in the background, "
        f"hidden behind {'compute' if top.name == 'compute' else 'the rest'}."
    )


def percent(share: float) -> str:
    """A share as people read it: "93 %", "0.4 %", "under 0.1 %"."""
    hundredths = share * 100
    if 0 < hundredths < 0.1:
        return "under 0.1 %"
    return f"{hundredths:.1f} %" if hundredths < 0.95 else f"{hundredths:.0f} %"


def duration(seconds: float) -> str:
    """Seconds as people read them: "12.3 ms", "3.2 s", "1 min 40 s", "2 h 05 min".

    >>> [duration(s) for s in (0.0123, 3.21, 59.96, 100, 7500)]
    ['12.3 ms', '3.2 s', '1 min 00 s', '1 min 40 s', '2 h 05 min']
    """
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
