"""Options of train() without their groups -> the groups: tests name the few that matter to them."""

from __future__ import annotations

import dataclasses
from typing import Any

from headrace import training
from headrace.load import BatchOptions

GROUPS = {
    "data": training.DataOptions,
    "optimizer": training.OptimizerOptions,
    "parallel": training.ParallelOptions,
    "checkpoint": training.CheckpointOptions,
    "evaluation": training.EvaluationOptions,
    "run": training.RunOptions,
}


def grouped(**flat: Any) -> dict[str, Any]:
    """`lr=1e-3, steps=2` as `optimizer=OptimizerOptions(lr=1e-3), steps=2`."""
    groups = {}
    own = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in GROUPS.items()}
    rows = {field.name for field in dataclasses.fields(BatchOptions)}.difference(*own.values()) & flat.keys()
    if rows:
        output = flat.get("output", BatchOptions())
        flat["output"] = dataclasses.replace(output, **{field: flat.pop(field) for field in rows})
    if isinstance(flat.get("lora"), dict):  # of a run in another process
        flat["lora"] = training.LoraOptions(**flat["lora"])
    for name, kind in GROUPS.items():
        fields = own[name] & flat.keys()
        groups[name] = kind(**{field: flat.pop(field) for field in fields})
    return {**groups, **flat}


def train(stores: Any, **flat: Any) -> training.RunSummary:
    return training.train(stores, **grouped(**flat))
