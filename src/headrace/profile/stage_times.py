"""The steps of a run -> seconds by stage, the slowest stage, and a sentence about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.formatting import duration, percent
from headrace.profile.run_files import RunFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long one stage took."""

    name: str
    """reading | decoding | waiting | compute | evaluation | checkpoint | generating | output | other."""
    seconds: float
    overlaps: bool = False
    """True: worked in background threads beside compute, so it is not part of the wall time."""

    @property
    def phrase(self) -> str:
        """The stage as the end of "the run spent its time ..."."""
        return _PHRASES.get(self.name, f"in {self.name}")


_PHRASES = {
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


def run_stage_times(run: RunFiles) -> tuple[StageTime, ...]:
    """Seconds by stage, in the order of the data's path; stages that took no time are left out.

    Reading and decoding are done by the loader's threads beside compute; the other stages add up to the wall time.
    """
    steps = run.steps
    stages = (
        StageTime(name="reading", seconds=sum(s.reading_s for s in steps), overlaps=True),
        StageTime(name="decoding", seconds=sum(s.decoding_s for s in steps), overlaps=True),
        StageTime(name="waiting", seconds=sum(s.data_wait_s for s in steps)),
        StageTime(name="compute", seconds=sum(s.compute_s for s in steps)),
        StageTime(name="evaluation", seconds=sum(s.eval_s for s in steps)),
        StageTime(name="checkpoint", seconds=sum(s.checkpoint_s for s in steps)),
        StageTime(name="generating", seconds=_number(run.predictions, "compute_s")),
        StageTime(name="output", seconds=_number(run.predictions, "store_s")),
        StageTime(name="other", seconds=sum(s.other_s for s in steps)),
    )
    return tuple(stage for stage in stages if stage.seconds > 0)


def _number(values: Mapping[str, object], name: str) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else 0.0


def wall_seconds(stages: Sequence[StageTime]) -> float:
    """Sum of the stages that do not overlap others."""
    return sum(stage.seconds for stage in stages if not stage.overlaps)


def slowest_stage(stages: Sequence[StageTime]) -> StageTime | None:
    """The stage with the most wall time; None when nothing was timed."""
    return max((s for s in stages if not s.overlaps and s.seconds > 0), key=lambda s: s.seconds, default=None)


def describe_stages(stages: Sequence[StageTime]) -> str:
    """Where the time went, in words: the slowest stage first, then the others, then the background.

    >>> print(
    ...     describe_stages(
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
    top = slowest_stage(stages)
    if top is None:
        return "Nothing was timed yet."
    wall = wall_seconds(stages)
    # Parts below 1 % are in the table only, except waiting for data, which readers look for.
    others = sorted(
        (
            s
            for s in stages
            if not s.overlaps and s is not top and (s.seconds >= 0.01 * wall or s.name == "waiting")
        ),
        key=lambda s: -s.seconds,
    )
    text = f"The run spent {percent(top.seconds / wall)} of its {duration(wall)} {top.phrase}"
    if others:
        text += "; " + ", ".join(f"{percent(s.seconds / wall)} {s.phrase}" for s in others)
    return f"{text}.{_describe_background(stages, top)}"


def _describe_background(stages: Sequence[StageTime], top: StageTime) -> str:
    background = [s for s in stages if s.overlaps and s.seconds > 0]
    if not background:
        return ""
    if top.name == "waiting":
        # The run was limited by its data: name the background stage that limited the data.
        cause = max(background, key=lambda s: s.seconds)
        return f" It waited for {cause.name}, which took {duration(cause.seconds)} in the background."
    names = " and ".join(s.name for s in background).capitalize()
    return (
        f" {names} took {duration(sum(s.seconds for s in background))} in the background, "
        f"hidden behind {'compute' if top.name == 'compute' else 'the rest'}."
    )
