"""The steps of a run -> line charts as values: series with names, axes with units."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.profile.run_files import StepMetrics

Point = tuple[float, float]

SMOOTHING = 21
"""Steps of the running median that is drawn over the single steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of marks of a chart."""

    name: str
    points: tuple[Point, ...]
    role: str
    """faint: single values; main: the curve to look at; marked: measured now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """A chart's content, independent of how it is drawn."""

    name: str
    """File name of its picture, without the ending."""
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    from_zero: bool
    """Whether the vertical axis starts at 0 (a rate) or near the data (a loss)."""
    summary: str
    """The chart in words, for screen readers and below the picture."""


def run_charts(steps: Sequence[StepMetrics]) -> list[LineChart]:
    """The charts of a run for which there are numbers."""
    return [chart for chart in (loss_chart(steps), speed_chart(steps)) if chart is not None]


def loss_chart(steps: Sequence[StepMetrics]) -> LineChart | None:
    """Training loss of every step, its running median, and the held-out loss; None without a loss."""
    train = tuple((float(s.step), s.loss) for s in steps if s.loss is not None)
    held_out = tuple((float(s.step), s.eval_loss) for s in steps if s.eval_loss is not None)
    if not train and not held_out:
        return None
    series = _with_running_median("training", train)
    summary = ""
    if train:
        (first_step, first), (last_step, last) = train[0], train[-1]
        summary = f"Training loss went from {first:.2f} at step {first_step:.0f} to {last:.2f} at step {last_step:.0f}"
        if len(series) == 2:
            number = SMOOTHING // 2 + 1
            summary += f"; the median of the last {number} steps is {series[-1].points[-1][1]:.2f}"
        summary += "."
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


def speed_chart(steps: Sequence[StepMetrics]) -> LineChart | None:
    """Tokens per second of every step and its running median; None when no step was timed."""
    points = tuple((float(s.step), s.tokens_per_s) for s in steps if s.tokens_per_s is not None)
    if not points:
        return None
    summary = f"The median of {len(points)} steps is {statistics.median(y for _, y in points):,.0f} tokens per second"
    overall = overall_tokens_per_s(steps)
    if overall is not None:
        summary += f"; over the whole run, evaluation and checkpoints included, it is {overall:,.0f}"
    return LineChart(
        name="tokens_per_s",
        title="Training speed",
        x_label="step",
        y_label="tokens per second",
        series=_with_running_median("speed", points),
        from_zero=True,
        summary=f"{summary}.",
    )


def overall_tokens_per_s(steps: Sequence[StepMetrics]) -> float | None:
    """All tokens over the seconds of all steps; None when they were not timed."""
    seconds = sum(step.step_s for step in steps)
    return steps[-1].tokens / seconds if steps and steps[-1].tokens and seconds else None


def _with_running_median(name: str, points: tuple[Point, ...]) -> tuple[Series, ...]:
    if not points:
        return ()
    if len(points) < 2 * SMOOTHING:
        return (Series(name=name, points=points, role="main"),)
    return (
        Series(name=f"{name}, single steps", points=points, role="faint"),
        Series(
            name=f"{name}, median of {SMOOTHING} steps", points=running_median(points, SMOOTHING), role="main"
        ),
    )


def running_median(points: Sequence[Point], window: int) -> tuple[Point, ...]:
    """Median of the values around each point; at both ends, of the half window that exists.

    >>> running_median([(0, 1), (1, 9), (2, 2), (3, 3)], 3)
    ((0, 5.0), (1, 2), (2, 3), (3, 2.5))
    """
    half = window // 2
    return tuple(
        (x, statistics.median(y for _, y in points[max(0, i - half) : i + half + 1]))
        for i, (x, _) in enumerate(points)
    )
