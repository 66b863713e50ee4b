"""A model, hardware and a batch -> every layout that can be, its time and memory with intervals, the best first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.plan import memory as memory_model
from headrace.plan import step_time as time_model
from headrace.plan.calibration import Calibration, Interval
from headrace.plan.hardware import Hardware
from headrace.plan.impossible import impossible
from headrace.plan.points import RECOMPUTE, Points, points
from headrace.plan.shapes import ModelShape

SHARD = ("none", "zero2", "zero3")
"""What data-parallel ranks share, by the names of `headrace train --shard`."""
_ZERO = {"none": 0, "zero2": 2, "zero3": 3}
_USABLE = 0.97
"""Share of the device's memory that a process gets: the driver and the context keep the rest."""


MOST: Final = {"gpus": 1_000_000, "seq_len": 1_000_000_000, "global_batch": 1_000_000_000}
"""Larger counts are slips of the pen; the search would take hours to find their divisors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What is to be trained, on what."""

    shape: ModelShape
    hardware: Hardware
    gpus: int
    seq_len: int
    global_batch: int
    """Rows of an optimizer step."""
    dtype: str = "bf16"
    system: str | None = None
    """Calibrated system whose constants apply; None: what similar hardware taught."""

    def __post_init__(self) -> None:
        """Refuse what is no job.

        Raises:
            ConfigError: a count below 1.
        """
        for name in ("gpus", "seq_len", "global_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"plan: {name} is {value!r}; expected a whole number above 0")
            if value > MOST[name]:
                raise ConfigError(f"plan: {name} is {value}; expected at most {MOST[name]:,}")
        self.hardware.peak_flops(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """N layouts of a job, the fastest that fits first; arrays [N]."""

    points: Points
    shard: NDArray[np.str_]
    step: Interval
    """Seconds of a step."""
    memory: Interval
    """Bytes at the fullest rank."""
    fits: NDArray[np.bool_]
    """Is even the interval's upper bound of memory below the device's?"""
    tight: NDArray[np.bool_]
    """The expected memory is below the device's, the upper bound is not."""

    def __len__(self) -> int:
        """N."""
        return len(self.points)


def search(
    job: TrainingJob,
    steps: Calibration,
    memories: Calibration,
    *,
    fixed: Mapping[str, int | str] | None = None,
) -> Layouts:
    """Every layout of a job: degrees that divide, micro-batches that divide, what can be sharded and recomputed.

    Args:
        job: model, hardware, batch.
        steps: calibration of step_time.
        memories: calibration of memory.
        fixed: values that may not vary: dp, tp, pp, cp, micro_batch, interleave, shard, recompute.

    Raises:
        ConfigError: an unknown or impossible fixed value, or no layout has the asked values.
    """
    requested = dict(fixed or {})
    known = {"dp", "tp", "pp", "cp", "micro_batch", "interleave", "shard", "recompute"}
    unknown = sorted(set(requested) - known)
    if unknown:
        raise ConfigError(f"plan: no degree named {unknown[0]!r}; expected {', '.join(sorted(known))}")
    grid = _grid(job, requested)
    if not len(grid["tp"]):
        raise ConfigError(f"plan: {_no_layout(job, requested)}")
    shard = np.array(SHARD)[grid.pop("shard").astype(int)]
    data = grid.pop("dp")
    sharded = shard != "none"
    found = points(
        job.shape,
        job.hardware,
        seq_len=job.seq_len,
        global_batch=job.global_batch,
        dtype=job.dtype,
        layout={
            **grid,
            "dp": np.where(sharded, 1, data),
            "fsdp": np.where(sharded, data, 1),
            "zero": np.array([_ZERO[name] for name in shard], dtype=np.float64),
        },
    )
    systems = [job.system] * len(found)
    step = steps.predict(lambda p, logs: time_model.step_time(p, logs).total, found, systems)
    used = memories.predict(lambda p, logs: memory_model.memory(p, logs).total, found, systems)
    usable = job.hardware.memory_bytes * _USABLE
    fits, tight = used.high <= usable, (used.value <= usable) & (used.high > usable)
    rank = np.lexsort((step.value, np.where(fits, 0, np.where(tight, 1, 2))))
    return Layouts(
        points=found[rank],
        shard=shard[rank],
        step=_picked(step, rank),
        memory=_picked(used, rank),
        fits=fits[rank],
        tight=tight[rank],
    )


def job_facts(job: TrainingJob) -> dict[str, int]:
    """What degrees have to divide: gpus, rows, layers, kv_heads."""
    return {
        "gpus": job.gpus,
        "rows": job.global_batch,
        "layers": job.shape.num_layers,
        "kv_heads": job.shape.num_kv_heads,
    }


def _no_layout(job: TrainingJob, requested: Mapping[str, int | str]) -> str:
    """Why a job has no layout with the requested values."""
    cp = requested.get("cp", 1)
    if job.gpus % int(cp):
        return impossible({"cp": _divisors(job.gpus).astype(int)}, {"cp": str(cp)}, job_facts(job))
    grid = _grid(job, {"cp": cp})
    if not len(grid["tp"]):
        return (
            f"{job.gpus:,} GPUs and {job.global_batch:,} rows have no layout at all: dp has to divide the GPUs and the "
            f"rows, tp the {job.shape.num_kv_heads} key/value heads, and pp is at most the {job.shape.num_layers} "
            f"layers. Give other --gpus or --batch-size."
        )
    columns = {name: column.astype(int) for name, column in grid.items()}
    named = {"shard": np.array(SHARD), "recompute": np.array(RECOMPUTE)}
    columns |= {name: names[columns[name]] for name, names in named.items()}
    texts = {
        name: str(value) for name, value in requested.items() if value != -1 and (name, value) != ("cp", 1)
    }
    return impossible(columns, texts, job_facts(job))


def _picked(interval: Interval, rank: NDArray[np.intp]) -> Interval:
    return Interval(
        value=interval.value[rank],
        low=interval.low[rank],
        high=interval.high[rank],
        known=interval.known[rank],
    )


def _divisors(number: int) -> NDArray[np.float64]:
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return np.array(sorted({*low, *(number // d for d in low)}), dtype=np.float64)


def _grid(job: TrainingJob, requested: Mapping[str, int | str]) -> dict[str, NDArray[np.float64]]:
    """Columns of all layouts that divide; `dp` counts all data-parallel ranks, `shard` is an index into SHARD."""

    def choices(name: str, default: NDArray[np.float64]) -> NDArray[np.float64]:
        value = requested.get(name, -1)
        if value == -1:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"plan: {name} is {value!r}; expected a whole number above 0")
        return np.array([float(value)])

    def named(name: str, names: tuple[str, ...]) -> NDArray[np.float64]:
        value = requested.get(name)
        if value is None:
            return np.arange(len(names), dtype=np.float64)
        if value not in names:
            raise ConfigError(f"plan: {name} is {value!r}; expected {', '.join(names)}")
        return np.array([float(names.index(str(value)))])

    heads = job.shape.num_kv_heads
    degrees = _divisors(job.gpus)
    tp = choices("tp", degrees[(heads % degrees == 0) & (degrees <= job.hardware.gpus_per_node)])
    pp = choices("pp", degrees[degrees <= job.shape.num_layers])
    cp = choices("cp", np.ones(1))
    micro = choices("micro_batch", _divisors(job.global_batch)[:24])
    axes = np.meshgrid(
        tp, pp, cp, micro, choices("interleave", np.array([1.0, 2, 3, 4, 6, 8])), named("shard", SHARD),
        named("recompute", RECOMPUTE), indexing="ij",
    )  # fmt: skip
    tp, pp, cp, micro, interleave, shard, recompute = (axis.ravel() for axis in axes)
    dp = job.gpus / (tp * pp * cp)
    rows = job.global_batch / (dp * micro)
    layers = job.shape.num_layers
    right = (dp == np.floor(dp)) & (dp >= 1) & (rows == np.floor(rows)) & (rows >= 1)
    right &= heads % tp == 0
    right &= (interleave == 1) | ((pp > 1) & (layers % (pp * interleave) == 0) & (rows % pp == 0))
    right &= (shard == 0) | (dp > 1)
    right &= (pp == 1) | (layers % pp == 0) | (interleave == 1)
    if requested.get("dp", -1) != -1:
        right &= dp == choices("dp", degrees)[0]
    columns = {
        "dp": dp, "tp": tp, "pp": pp, "cp": cp, "micro_batch": micro, "interleave": interleave, "shard": shard,
        "recompute": recompute,
    }  # fmt: skip
    return {name: column[right] for name, column in columns.items()}
