"""constants.json -> the calibrations that a plan begins with: fitted to published measurements, see docs/plan.md."""

from __future__ import annotations

import json
from importlib.resources import files

from headrace.plan import memory as memory_model
from headrace.plan import step_time as time_model
from headrace.plan.calibration import Calibration
from headrace.plan.hardware import Hardware
from headrace.plan.points import Column, Points


def shipped() -> tuple[Calibration, Calibration]:
    """Calibrations of step_time and of memory that come with headrace; `bench/plan_constants.py` makes them."""
    values = json.loads(files("headrace.plan").joinpath("constants.json").read_text(encoding="utf-8"))
    return Calibration.from_json(values["step"]), Calibration.from_json(values["memory"])


def system_of_hardware(hardware: Hardware, steps: Calibration) -> str | None:
    """The calibrated system of runs of headrace on this hardware; None where there is none.

    Own runs come first; then what other machines of the same kind taught.
    """
    for name in (f"headrace {hardware.name}", f"headrace {hardware.arch}"):
        if name in steps.systems:
            return name
    return None


def step_seconds(p: Points, logs: Column) -> Column:
    """Seconds of a step: the formula that `step` calibrates."""
    return time_model.step_time(p, logs).total


def memory_bytes(p: Points, logs: Column) -> Column:
    """Bytes at the fullest rank: the formula that `memory` calibrates."""
    return memory_model.memory(p, logs).total
