"""Runs of headrace -> measured points of their system, kept in a file whose calibration later plans use.

The file holds the points with their hardware, and the calibrations of step time that they make with the shipped ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import ConfigError
from headrace.paths import home_directory, local_path
from headrace.plan import step_time as time_model
from headrace.plan.calibration import Calibration, calibrate
from headrace.plan.constants import shipped, step_seconds
from headrace.plan.hardware import Hardware, find_gpu
from headrace.plan.points import Points, points
from headrace.plan.shapes import ModelShape, model_shape

_MIN_STEPS = 3
_LAST_STEPS = 200
"""A run may have changed its layout between starts: run.json has the last one's."""
_ZERO = {"none": 0, "zero2": 2, "zero3": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One run as a measured point."""

    run: str
    """Its directory."""
    system: str
    shape: ModelShape
    hardware: Hardware
    seq_len: int
    global_batch: int
    dtype: str
    layout: dict[str, int]
    """As `points` takes it."""
    steps: int
    """Steps that step_s is the median of."""
    step_s: float

    def points(self) -> Points:
        """The run as one set-up."""
        return points(
            self.shape, self.hardware, seq_len=self.seq_len, global_batch=self.global_batch, dtype=self.dtype,
            layout=self.layout,
        )  # fmt: skip


def cache_directory() -> Path:
    """The user's directory for measured figures: XDG_CACHE_HOME or ~/.cache, then headrace/plan."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else home_directory(kept="measured runs", cure="Give --out FILE") / ".cache"
    return home / "headrace" / "plan"


def own_constants_path() -> Path:
    """The file that `plan calibrate` writes and every plan reads, without --out."""
    return cache_directory() / "runs.json"


def processes_of(path: str | Path) -> int:
    """How many processes a run had on each machine.

    Raises:
        ConfigError: not a run.
    """
    try:
        run = json.loads(
            (local_path(path, name="plan calibrate: run") / "run.json").read_text(encoding="utf-8")
        )
        return max(1, int(run["processes"]) // max(1, int(run.get("nodes") or 1)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a run of headrace train: {_reason(error)}") from error


def measured_run(path: str | Path, *, hardware: Hardware | None = None) -> MeasuredRun:
    """A run directory of `headrace train` as a measured point.

    Args:
        path: with run.json and metrics.jsonl.
        hardware: of the machine; default: what layout auto wrote into run.json, or the GPU's name in the table.

    Raises:
        ConfigError: not a run, too few steps, or hardware that nothing says.
    """
    path = local_path(path, name="plan calibrate: run")
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
        recipe, layout = run["recipe"], run["layout"]
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = [json.loads(line) for line in lines if line.endswith("}")]
        seconds = [
            float(m["compute_s"]) for m in metrics[1:] if m["step"] > (recipe.get("rampup_steps") or 0)
        ]
        processes, nodes = int(run["processes"]), max(1, int(run.get("nodes") or 1))
        degrees = _layout(recipe, layout)
        batch, seq_len = int(recipe["batch_size"]), int(recipe["seq_len"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a run of headrace train with metrics: {_reason(error)}") from error
    if len(seconds) < _MIN_STEPS:
        raise ConfigError(
            f"{path}: {len(seconds)} steps after the first one; a measured point takes {_MIN_STEPS} or more"
        )
    seconds = seconds[-_LAST_STEPS:]
    found = hardware or _hardware(path, run, per_node=processes // nodes)
    return MeasuredRun(
        run=str(path.resolve()),
        system=f"headrace {found.name}",
        shape=model_shape(path),
        hardware=found,
        seq_len=seq_len,
        global_batch=batch,
        dtype="float32" if recipe.get("dtype") == "float32" else "bf16",
        layout=degrees,
        steps=len(seconds),
        step_s=statistics.median(seconds),
    )


def _layout(recipe: dict[str, Any], layout: dict[str, Any]) -> dict[str, int]:
    dp, tp, pp = (int(layout[name]) for name in ("dp", "tp", "pp"))
    rows = int(recipe["batch_size"]) // int(recipe["gradient_accumulation_steps"]) // dp
    parts = 1
    if pp > 1:
        # As train does without microbatches: the most up to 4 x pp that divide a rank's rows.
        parts = layout.get("microbatches") or max(n for n in range(1, min(rows, 4 * pp) + 1) if rows % n == 0)
    sharded = layout["shard"] != "none"
    return {
        "micro_batch": max(1, rows // parts),
        "dp": 1 if sharded else dp,
        "fsdp": dp if sharded else 1,
        "zero": _ZERO[layout["shard"]],
        "tp": tp,
        "pp": pp,
        "interleave": 2 if layout.get("pipeline_schedule") == "interleaved" else 1,
        "recompute": 2 if layout.get("activation_checkpointing") else 0,
    }


def _hardware(path: Path, run: dict[str, Any], *, per_node: int) -> Hardware:
    planned = (run.get("plan") or {}).get("hardware")
    if isinstance(planned, dict):
        names = {field.name for field in dataclasses.fields(Hardware)}
        return Hardware(**{name: value for name, value in planned.items() if name in names})
    gpu = find_gpu(str(run.get("device_name") or ""))
    if gpu is None:
        raise ConfigError(
            f"{path}: run.json does not say what its device {run.get('device_name')!r} can do. Give "
            f"--hardware FILE.toml, or --here on the machine that it ran on."
        )
    return dataclasses.replace(gpu, gpus_per_node=max(1, per_node))


def add_runs(runs: list[MeasuredRun], file: Path) -> tuple[Calibration, list[MeasuredRun]]:
    """Add runs to the points of a file, calibrate with them, and write the file; a run that is in it is replaced.

    Returns:
        The calibration of step time, and all runs of the file.

    Raises:
        ConfigError: the file is there and is not such a file.
    """
    known = {run.run: run for run in _read(file)[0]} if file.exists() else {}
    known |= {run.run: run for run in runs}
    all_runs = list(known.values())
    fitted = calibrate(
        step_seconds,
        Points.concatenate([run.points() for run in all_runs]),
        np.array([run.step_s for run in all_runs]),
        [run.system for run in all_runs],
        spread=time_model.SPREAD,
        host=time_model.HOST,
        prior=shipped()[0],
    )
    content = {"runs": [dataclasses.asdict(run) for run in all_runs], "step": fitted.to_json()}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(file)
    return fitted, all_runs


def calibrations(file: str | Path | None = None) -> tuple[Calibration, Calibration]:
    """Calibrations of step time and memory: the shipped ones, with the user's own measured runs.

    Args:
        file: what `plan calibrate --out` wrote; default the user's own, where it exists.

    Raises:
        ConfigError: the file cannot be read.
    """
    steps, memories = shipped()
    if file is not None:
        return _read(local_path(file, name="plan: calibrate"))[1], memories
    try:
        own = own_constants_path()
    except ConfigError:  # without a home directory there are none
        return steps, memories
    return (_read(own)[1] if own.exists() else steps), memories


def _read(file: Path) -> tuple[list[MeasuredRun], Calibration]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        runs = [
            MeasuredRun(
                **{**run, "shape": ModelShape(**run["shape"]), "hardware": Hardware(**run["hardware"])}
            )
            for run in content["runs"]
        ]
        return runs, Calibration.from_json(content["step"])
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}. headrace plan calibrate RUN... --out {file} makes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file}: not a file of measured runs: {_reason(error)}. Delete it, and add the runs again with "
            f"headrace plan calibrate RUN..."
        ) from error


def _reason(error: Exception) -> str:
    """What is wrong with a file, in words."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
