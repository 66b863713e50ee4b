"""A table of measured runs, and perhaps one to calibrate on -> how well the planner predicts them, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import SourceError
from headrace.plan import memory as memory_model
from headrace.plan import step_time as time_model
from headrace.plan.calibration import Calibration, Interval, calibrate
from headrace.plan.constants import memory_bytes, shipped, step_seconds
from headrace.plan.points import Column
from headrace.plan.table import MeasuredTable, read_table

_MIN_MEMORY_POINTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Predictions of a table's rows beside what was measured."""

    rows: list[dict[str, Any]]
    """row, system, step_s, step_s_low, step_s_high, measured_step_s, memory_gib, ..., or row and error."""
    systems: list[dict[str, Any]]
    """name, points, calibration_points, step_error, step_inside, memory_error, memory_inside."""
    step_error: float | None
    """Mean of |predicted / measured - 1| over rows that say their step time."""
    step_inside: float | None
    """Share of them inside the 90 % interval."""
    memory_error: float | None
    memory_inside: float | None
    unread: int
    calibration_unread: dict[int, str]
    """Rows of the table that systems were calibrated on that could not be read, and why."""


def calibration_of(table: MeasuredTable) -> tuple[Calibration, Calibration]:
    """Calibrations of step time and memory from a table's points, beginning with the shipped ones.

    Raises:
        SourceError: no row says its step time.
    """
    steps, memories = shipped()
    systems = np.array(table.systems)
    timed = ~np.isnan(table.step_s)
    if timed.sum() < 2:
        raise SourceError(f"calibration wants 2 rows with a step time or more, got {int(timed.sum())}")
    steps = calibrate(
        step_seconds,
        table.points[timed],
        table.step_s[timed],
        list(systems[timed]),
        spread=time_model.SPREAD,
        host=time_model.HOST,
        prior=steps,
    )
    weighed = ~np.isnan(table.memory_bytes)
    if weighed.sum() >= _MIN_MEMORY_POINTS:
        memories = calibrate(
            memory_bytes,
            table.points[weighed],
            table.memory_bytes[weighed],
            list(systems[weighed]),
            spread=memory_model.SPREAD,
            prior=memories,
        )
    return steps, memories


def check(path: str | Path, *, calibrate_on: str | Path | None = None) -> CheckReport:
    """Predict every row of a table of measured runs.

    Args:
        path: CSV in the columns of `headrace.plan.table.REQUIRED` and the optional ones.
        calibrate_on: a table that systems are calibrated on; default: the shipped constants.

    Raises:
        SourceError: a table cannot be read.
    """
    table = read_table(path)
    learned = None if calibrate_on is None else read_table(calibrate_on)
    steps, memories = shipped() if learned is None else calibration_of(learned)
    step = steps.predict(step_seconds, table.points, table.systems)
    used = memories.predict(memory_bytes, table.points, table.systems)
    rows: list[dict[str, Any]] = [{"row": row, "error": why} for row, why in table.unread.items()]
    gib = 2.0**30
    for i, row in enumerate(table.rows):
        rows.append(
            {
                "row": row,
                "system": table.systems[i],
                "step_s": float(step.value[i]),
                "step_s_low": float(step.low[i]),
                "step_s_high": float(step.high[i]),
                "measured_step_s": _or_none(table.step_s[i]),
                "memory_gib": float(used.value[i] / gib),
                "memory_gib_low": float(used.low[i] / gib),
                "memory_gib_high": float(used.high[i] / gib),
                "measured_memory_gib": _or_none(table.memory_bytes[i] / gib),
            }
        )
    rows.sort(key=lambda line: int(line["row"]))
    names = np.array(table.systems)
    systems = [
        {
            "name": name,
            "points": int((names == name).sum()),
            "calibration_points": steps.counts[steps.systems.index(name)] if name in steps.systems else 0,
            **_errors("step", step, table.step_s, names == name),
            **_errors("memory", used, table.memory_bytes, names == name),
        }
        for name in sorted(set(table.systems))
    ]
    everything = np.ones(len(names), dtype=bool)
    return CheckReport(
        rows=rows,
        systems=systems,
        unread=len(table.unread),
        calibration_unread={} if learned is None else learned.unread,
        **_errors("step", step, table.step_s, everything),
        **_errors("memory", used, table.memory_bytes, everything),
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _errors(
    name: str, predicted: Interval, measured: Column, rows: np.ndarray[Any, Any]
) -> dict[str, float | None]:
    rows = rows & ~np.isnan(measured)
    if not rows.any():
        return {f"{name}_error": None, f"{name}_inside": None}
    value, low, high, truth = (a[rows] for a in (predicted.value, predicted.low, predicted.high, measured))
    return {
        f"{name}_error": float(np.abs(value / truth - 1).mean()),
        f"{name}_inside": float(((low <= truth) & (truth <= high)).mean()),
    }
