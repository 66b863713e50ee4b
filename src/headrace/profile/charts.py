"""A run's steps -> charts as values: series with units and names, and the seconds of every stage."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.profile.rundir import RunFiles, Step
from headrace.profile.where import StageTime

Point = tuple[float, float]

SMOOTHING = 21
"""Steps of the running median that is drawn over the single steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of marks of a chart."""

    name: str
    points: tuple[Point, ...]
    role: str
    """faint | main | marked: single values, the curve to look at, measured now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """What a chart shows, however it is drawn."""

    name: str
    """File name of its picture, without the ending."""
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    from_zero: bool
    """The vertical axis starts at 0 (a rate), or near the data (a loss)."""
    summary: str
    """The chart in one sentence, for those who do not see it."""


def loss_chart(steps: Sequence[Step]) -> LineChart | None:
    """Training loss of every step, its running median, and the held-out loss; None without a loss."""
    train = tuple((float(s.step), s.loss) for s in steps if s.loss is not None)
    held_out = tuple((float(s.step), s.eval_loss) for s in steps if s.eval_loss is not None)
    if not train and not held_out:
        return None
    series = _with_trend("training", train)
    summary = ""
    if train:
        smooth = series[-1].points
        summary = (
            f"Training loss went from {train[0][1]:.2f} at step {train[0][0]:.0f} "
            f"to {smooth[-1][1]:.2f} at step {smooth[-1][0]:.0f}."
        )
    if held_out:
        series += (Series(name="held-out", points=held_out, role="marked"),)
        summary += f" Held-out loss ended at {held_out[-1][1]:.2f}."
    return LineChart(
        name="loss",
        title="Loss",
        x_label="step",
        y_label="cross-entropy, nats per token",
        series=series,
        from_zero=False,
        summary=summary.strip(),
    )


def speed_chart(steps: Sequence[Step]) -> LineChart | None:
    """Tokens per second of every step and its running median; None when no step was timed."""
    points = tuple((float(s.step), rate) for s in steps if (rate := speed(s)) is not None)
    if not points:
        return None
    median = statistics.median(y for _, y in points)
    return LineChart(
        name="tokens_per_s",
        title="Training speed",
        x_label="step",
        y_label="tokens per second",
        series=_with_trend("speed", points),
        from_zero=True,
        summary=f"Training ran at {median:,.0f} tokens per second in the median of {len(points)} steps.",
    )


def speed(step: Step) -> float | None:
    """Tokens per second of one step; None when it was not timed."""
    return step.tokens_per_s


def stage_times(files: RunFiles) -> tuple[StageTime, ...]:
    """Seconds by stage, in the order in which data meets them; stages that took no time are left out.

    Reading and decoding are the loader's threads, beside compute; the others add
    up to the wall time.
    """
    steps = files.steps
    parts = {
        "waiting": sum(s.data_wait_s for s in steps),
        "compute": sum(s.compute_s for s in steps),
        "evaluation": sum(s.eval_s for s in steps),
        "checkpoint": sum(s.checkpoint_s for s in steps),
    }
    predictions = files.predictions
    background = _background(files)
    found = (
        StageTime(name="reading", seconds=background["reading"], overlaps=True),
        StageTime(name="decoding", seconds=background["decoding"], overlaps=True),
        *(StageTime(name=name, seconds=seconds) for name, seconds in parts.items()),
        StageTime(name="generating", seconds=_number(predictions, "compute_s")),
        StageTime(name="output", seconds=_number(predictions, "store_s")),
        StageTime(name="other", seconds=sum(s.other_s for s in steps)),
    )
    return tuple(stage for stage in found if stage.seconds > 0)


def _background(files: RunFiles) -> dict[str, float]:
    return {
        "reading": sum(s.reading_s for s in files.steps),
        "decoding": sum(s.decoding_s for s in files.steps),
    }


def _number(values: Mapping[str, object], name: str) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else 0.0


def _with_trend(name: str, points: tuple[Point, ...]) -> tuple[Series, ...]:
    if not points:
        return ()
    if len(points) < 2 * SMOOTHING:
        return (Series(name=name, points=points, role="main"),)
    return (
        Series(name=f"{name}, single steps", points=points, role="faint"),
        Series(name=f"{name}, median of {SMOOTHING}", points=running_median(points, SMOOTHING), role="main"),
    )


def running_median(points: Sequence[Point], window: int) -> tuple[Point, ...]:
    """Median of the values around each point; at both ends, of the half of them that there is.

    >>> running_median([(0, 1), (1, 9), (2, 2), (3, 3)], 3)
    ((0, 5.0), (1, 2), (2, 3), (3, 2.5))
    """
    half = window // 2
    return tuple(
        (x, statistics.median(y for _, y in points[max(0, i - half) : i + half + 1]))
        for i, (x, _) in enumerate(points)
    )
