"""The loss and gradient norm of a step, and those before -> whether the step diverged; what was done, for run.json."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.training.recipe import Recipe
from headrace.training.run_directory.run_json import update_run

MAX_IN_A_ROW = 10
"""Steps left out one after the other, or returns to one checkpoint, after which the run stops."""


def divergence_of(loss: float, norm: float, recent: Sequence[Sequence[float]], recipe: Recipe) -> str | None:
    """Why a step diverged, None where it did not.

    A loss or gradient norm is a spike when it lies more than spike_sigma standard deviations above the mean of the
    last spike_window good steps, of which at least half must be there.

    Args:
        loss: of the step, over all ranks.
        norm: of its mean gradient, before clipping.
        recent: (loss, norm) of good steps, the newest last.
        recipe: of the step.

    Source: OLMo-core's SkipStepOptimizer, which skips such steps.
    """
    if not math.isfinite(loss) or not math.isfinite(norm):
        return f"the loss is {loss}, the gradient norm {norm}"
    if not recipe.spike_sigma or len(recent) < max(2, recipe.spike_window // 2):
        return None
    for name, value, index in (("loss", loss, 0), ("gradient norm", norm, 1)):
        values = [pair[index] for pair in recent]
        mean, deviation = statistics.fmean(values), statistics.pstdev(values)
        if value > mean + recipe.spike_sigma * deviation:
            return f"the {name} is {value:.6g}, above {mean:.6g} + {recipe.spike_sigma:g} x {deviation:.3g}"
    return None


def divergence_error(step: int, reason: str, recipe: Recipe, *, tried: str = "") -> ConfigError:
    """The error that ends a run which diverged."""
    return ConfigError(
        f"train: training has diverged at step {step}: {reason}.{tried} The checkpoints before are whole; go on "
        f"with a lower lr (now {recipe.lr}), or with --on-divergence skip or rollback."
    )


def record_divergence(out: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry to run.json, in the place of an earlier one of the same step and action."""

    def change(run: dict[str, Any]) -> dict[str, Any]:
        key = (entry["step"], entry["action"], entry["rows"])
        others = [e for e in run.get("divergences", ()) if (e["step"], e["action"], e["rows"]) != key]
        return {**run, "divergences": [*others, dict(entry)]}

    update_run(out, change)


def positions_after(run: Mapping[str, Any]) -> dict[int, int]:
    """Step -> position that the rows go on at after it: where a run went back and stepped around rows.

    >>> entry = {"action": "rollback", "step": 9, "after_step": 4, "rows": [32, 72]}
    >>> positions_after({"divergences": [entry, {**entry, "step": 7, "rows": [32, 56]}]})
    {4: 72}
    """
    positions: dict[int, int] = {}
    for entry in run.get("divergences", ()):
        if entry["action"] == "rollback":
            step = entry["after_step"]
            positions[step] = max(positions.get(step, 0), entry["rows"][1])
    return positions
