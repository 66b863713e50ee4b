"""The steps of a run -> the mean step as parts, how much of it waits for data, and a picture of it as one bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from headrace.formatting import duration, percent
from headrace.profile.intervals import ConfidenceInterval, share_interval
from headrace.profile.run_files import RunFiles, StepMetrics

PartKind = Literal["compute", "wait", "communication", "checkpoint", "other"]

WARMUP_STEPS = 5
"""First steps that are left out where there are enough others."""
MIN_STEPS = 10
STALL = 0.02
"""A lower bound of the waiting share below this is no stall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPart:
    """A part of a mean step."""

    name: str
    seconds: float
    kind: PartKind


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBalance:
    """Where a step's time goes, and whether data is its limit."""

    parts: tuple[StepPart, ...]
    waiting: ConfidenceInterval
    """Share of a step that waits for data."""
    step_s: float
    steps: int
    cause: str
    """The loader's busiest stage: reading, decoding; empty where it was not timed."""

    @property
    def limiter(self) -> str:
        """Model | storage (or network) | decompression | unclear."""
        if self.waiting.low <= STALL:
            return "model" if self.waiting.high < 0.05 else "unclear"
        return {"reading": "storage", "decoding": "decompression"}.get(self.cause, "unclear")

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        step, waiting = duration(self.step_s), self.waiting
        if waiting.low <= STALL and waiting.high < 0.05:
            return (
                f"The model is the limit: at most {percent(waiting.high)} of a step of {step} waits for data, so a "
                "faster loader would gain nothing."
            )
        interval = f"{percent(waiting.low)} to {percent(waiting.high)}"
        if waiting.low <= STALL:
            return f"Not clear yet: a step of {step} waits for data for {interval} of its time; more steps would say."
        because = f", because of {self.cause} in the loader" if self.cause else ""
        ceiling, low, high = (
            f"{1 / (1 - min(share, 0.999)):.2f}" for share in (waiting.value, waiting.low, waiting.high)
        )
        return (
            f"{percent(waiting.value)} of a step of {step} waits for data (95 % interval {interval}){because}; with "
            f"free data the run would be {ceiling} times as fast ({low} to {high})."
        )


def run_step_balance(run: RunFiles) -> StepBalance | None:
    """The mean step of a run without its first steps; None where too few steps were timed to say."""
    timed = [step for step in run.steps if step.step_s > 0]
    steps = timed[WARMUP_STEPS:] if len(timed) >= WARMUP_STEPS + MIN_STEPS else timed
    if len(steps) < MIN_STEPS:
        return None
    count = len(steps)
    # Evaluation and checkpoints are not of every step: the waits' share is of steps without them.
    waiting = share_interval(
        [step.data_wait_s for step in steps],
        [max(step.step_s - step.eval_s - step.checkpoint_s, step.data_wait_s) for step in steps],
    )
    cause = _cause(steps)
    parts: tuple[tuple[str, float, PartKind], ...] = (
        ("compute", sum(step.compute_s for step in steps), "compute"),
        (f"wait: {cause}" if cause else "wait for data", sum(step.data_wait_s for step in steps), "wait"),
        ("evaluation", sum(step.eval_s for step in steps), "other"),
        ("checkpoint", sum(step.checkpoint_s for step in steps), "checkpoint"),
        ("other", sum(step.other_s for step in steps), "other"),
    )
    return StepBalance(
        parts=tuple(
            StepPart(name=name, seconds=seconds / count, kind=kind)
            for name, seconds, kind in parts
            if seconds > 0
        ),
        waiting=waiting,
        step_s=sum(step.step_s for step in steps) / count,
        steps=count,
        cause=cause,
    )


def _cause(steps: Sequence[StepMetrics]) -> str:
    reading, decoding = sum(step.reading_s for step in steps), sum(step.decoding_s for step in steps)
    if reading + decoding <= 0:
        return ""
    return "reading" if reading >= decoding else "decoding"


WIDTH, HEIGHT, BAR_TOP, BAR_BOTTOM = 460, 58, 4, 36


def draw_step_bar(parts: Sequence[StepPart]) -> str:
    """A mean step as one `<svg>` bar whose parts are as long as they take; its text is for screen readers too."""
    whole = sum(part.seconds for part in parts) or 1.0
    described = ", ".join(f"{part.name} {percent(part.seconds / whole)}" for part in parts)
    drawn, x = [], 0.0
    for part in parts:
        width = part.seconds / whole * WIDTH
        title = escape(f"{part.name}: {duration(part.seconds)}, {percent(part.seconds / whole)}")
        drawn.append(
            f'<rect class="part-{part.kind}" x="{x:.1f}" y="{BAR_TOP}" width="{max(width, 0.5):.1f}" '
            f'height="{BAR_BOTTOM - BAR_TOP}"><title>{title}</title></rect>'
        )
        if width > 44:
            drawn.append(
                f'<text class="in-part" x="{x + width / 2:.1f}" y="{(BAR_TOP + BAR_BOTTOM) / 2 + 5}" '
                f'text-anchor="middle" aria-hidden="true">{percent(part.seconds / whole)}</text>'
            )
        x += width
    named = 'role="img" aria-labelledby="step-title step-desc"'
    return "\n".join(
        [
            f'<svg class="chart step" viewBox="0 0 {WIDTH} {HEIGHT}" {named}>',
            '<title id="step-title">A step</title>',
            f'<desc id="step-desc">{escape(described)}</desc>',
            *drawn,
            f'<path class="axis" d="M0 {BAR_BOTTOM + 4}H{WIDTH}"/>',
            f'<text x="0" y="{HEIGHT - 2}" aria-hidden="true">0</text>',
            f'<text x="{WIDTH}" y="{HEIGHT - 2}" text-anchor="end" aria-hidden="true">{duration(whole)}</text>',
            "</svg>",
        ]
    )


def step_bar_section(sentence: str, parts: Sequence[StepPart]) -> str:
    """One sentence, the bar, and what its colours mean, as HTML."""
    whole = sum(part.seconds for part in parts) or 1.0
    keys = "".join(
        f'<li><span class="key-box part-{part.kind}"></span>{escape(part.name)}, {duration(part.seconds)} '
        f"({percent(part.seconds / whole)})</li>"
        for part in parts
    )
    return (
        f'<p class="verdict">{escape(sentence)}</p><figure>{draw_step_bar(parts)}'
        f'<ul class="legend">{keys}</ul></figure>'
    )
