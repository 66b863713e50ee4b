"""The starts of a run and what they changed -> the recipe of every step, and the segments that run.json records."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import ResumeError
from headrace.training.recipe import Recipe

_MACHINE = ("processes", "layout", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSegment:
    """Steps of a run that were taken with one recipe on one layout, up to the next segment's first step."""

    first_step: int
    began: str
    """UTC, ISO 8601."""
    recipe: Recipe
    machine: Mapping[str, Any]
    """Processes, layout and device."""

    def changes(self, before: RunSegment) -> dict[str, tuple[Any, Any]]:
        """Options that differ from the segment before: name -> (before, now)."""
        old, new = before._values(), self._values()
        return {name: (old[name], new[name]) for name in new if old[name] != new[name]}

    def _values(self) -> dict[str, Any]:
        machine = dict(self.machine)
        return {**self.recipe.changeable(), **machine.pop("layout"), **machine}


def machine_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `describe_machine` that a segment records."""
    return {name: description[name] for name in _MACHINE}


def read_segments(run: Mapping[str, Any], recipe: Recipe) -> list[RunSegment]:
    """The segments of run.json.

    Args:
        run: its content.
        recipe: of the same model and data.

    Raises:
        ResumeError: there are none, or they do not say what a segment says.
    """
    try:
        segments = [
            RunSegment(
                first_step=segment["first_step"],
                began=segment["began"],
                recipe=recipe.with_changes(segment["recipe"]),
                machine=machine_of(segment),
            )
            for segment in run["segments"] or [{}]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ResumeError(
            f"run.json: it does not say with which options its steps were taken (segments: {error}). Damaged? Restore "
            f"it from a copy of the run, or give another directory with --out."
        ) from error
    return segments


def segments_json(segments: Sequence[RunSegment]) -> list[dict[str, Any]]:
    """Segments as run.json holds them."""
    befores = [None, *segments]
    return [
        {
            "first_step": segment.first_step,
            "began": segment.began,
            "changed": {} if before is None else segment.changes(before),
            "recipe": segment.recipe.changeable(),
            **segment.machine,
        }
        for before, segment in zip(befores, segments, strict=False)
    ]


def start_segments(
    before: Sequence[RunSegment],
    *,
    step: int,
    recipe: Recipe,
    machine: Mapping[str, Any],
    began: str | None = None,
) -> list[RunSegment]:
    """The segments of a run that starts again after a step.

    Segments up to that step are kept. Later ones were begun, but the checkpoint that the start goes on from is
    older (a kill before the first checkpoint, a damaged one): they apply again at their own steps, so that the
    steps in between are the same as before, unless another recipe is requested now, which then begins at once.

    Args:
        before: of the earlier starts.
        step: steps done at this start.
        recipe: requested now.
        machine: of this start.
        began: time of this start; default now.
    """
    now = began or dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    machine = machine_of(machine)
    past = [segment for segment in before if segment.first_step <= step]
    later = [segment for segment in before if segment.first_step > step]
    if later and later[-1].recipe == recipe:
        later = [dataclasses.replace(segment, machine=machine) for segment in later]
    elif later or not past or past[-1].recipe != recipe:
        later = [RunSegment(first_step=step + 1, began=now, recipe=recipe, machine=machine)]
    if past and past[-1].machine != machine and not (later and later[0].first_step == step + 1):
        same = dataclasses.replace(past[-1], first_step=step + 1, began=now, machine=machine)
        later = [same, *later]
    segments = past
    for segment in later:
        last = segments[-1] if segments else None
        if last is None or (segment.recipe, segment.machine) != (last.recipe, last.machine):
            segments.append(segment)
    return segments


def recipe_at(segments: Sequence[RunSegment], step: int) -> Recipe:
    """The recipe that a step is taken with (the first step is 1)."""
    return next(
        (segment.recipe for segment in reversed(segments) if segment.first_step <= step), segments[0].recipe
    )


def steps_of_tokens(tokens: int, *, recipe: Recipe, step: int, tokens_done: int) -> int:
    """Steps in all until a run has read so many tokens: the last step reads at least the last of them.

    Args:
        tokens: in all.
        recipe: of the steps after `step`; its own number of steps does not matter.
        step: steps done.
        tokens_done: tokens that they read.
    """
    schedule = recipe.schedule
    micro_tokens = schedule.micro_batch_size * recipe.seq_len
    while tokens_done < tokens and step < recipe.rampup_steps:
        step += 1
        tokens_done += schedule.micro_batches_at(step) * micro_tokens
    left = max(0, tokens - tokens_done)
    return step + -(-left // (recipe.batch_size * recipe.seq_len))
