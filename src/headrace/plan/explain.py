"""A plan's layouts -> words that a person can check: what binds the best one, why others lose, the command."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

import numpy as np

from headrace.errors import ConfigError
from headrace.plan.calibration import Calibration
from headrace.plan.impossible import impossible
from headrace.plan.layout_search import Layouts, TrainingJob, job_facts
from headrace.plan.memory import memory
from headrace.plan.points import RECOMPUTE, Points
from headrace.plan.step_time import StepTime, step_time

_GIB = 2.0**30
_DAY_S = 86_400.0
_CURES = 2000
"""Fitting layouts that are looked at for the one with the fewest changes."""
_HARDLY = 0.05
"""A smaller gain is within what a plan can tell apart."""

_PART_WORDS = {
    "matmul": "matrix products",
    "attention": "attention",
    "elementwise": "element-wise work",
    "launch": "launching kernels",
    "recompute": "recomputation",
    "logits": "logits and loss",
    "tensor_parallel": "tensor-parallel all-reduces",
    "context_parallel": "context-parallel exchange",
    "bubble": "pipeline bubble",
    "pipeline": "pipeline sends and micro-batch overhead",
    "sharded_weights": "gathering sharded weights",
    "data_parallel": "gradient all-reduce",
    "optimizer": "optimizer",
    "overhead": "fixed cost of a step",
}
_COMMUNICATION = ("tensor_parallel", "context_parallel", "pipeline", "sharded_weights", "data_parallel")


def layout_name(layouts: Layouts, i: int) -> str:
    """A layout in one line: the values that `--why` takes.

    Example: `dp=8,tp=2,pp=4,interleave=2,micro_batch=2,shard=zero2,recompute=full`.
    """
    values = layout_values(layouts, i)
    shown = {k: v for k, v in values.items() if v not in (1, "none") or k in ("dp", "micro_batch")}
    return ",".join(f"{k}={v}" for k, v in shown.items())


def layout_values(layouts: Layouts, i: int) -> dict[str, Any]:
    """Degrees and options of a layout, by the names of `plan`'s options."""
    p = layouts.points
    return {
        "dp": int(p.dp[i] * p.fsdp[i]),
        "tp": int(p.tp[i]),
        "pp": int(p.pp[i]),
        "cp": int(p.cp[i]),
        "interleave": int(p.interleave[i]),
        "micro_batch": int(p.micro_batch[i]),
        "shard": str(layouts.shard[i]),
        "recompute": RECOMPUTE[int(p.recompute[i])],
    }


def summary_of(layouts: Layouts, job: TrainingJob, steps: Calibration, i: int) -> dict[str, Any]:
    """One layout with its figures and intervals: JSON."""
    p, step, used = layouts.points, layouts.step, layouts.memory
    tokens = job.global_batch * job.seq_len
    parts = _parts(p, steps, job, i)
    flops = float(p.flops_per_token[i]) * tokens / (job.gpus * float(p.peak[i]))
    total = parts.total[0]
    return {
        **layout_values(layouts, i),
        "fits": bool(layouts.fits[i]),
        "tight": bool(layouts.tight[i]),
        "step_s": float(step.value[i]),
        "step_s_low": float(step.low[i]),
        "step_s_high": float(step.high[i]),
        "tokens_per_s": tokens / float(step.value[i]),
        "tokens_per_s_low": tokens / float(step.high[i]),
        "tokens_per_s_high": tokens / float(step.low[i]),
        "mfu": flops / float(step.value[i]),
        "mfu_low": flops / float(step.high[i]),
        "mfu_high": flops / float(step.low[i]),
        "memory_gib": float(used.value[i]) / _GIB,
        "memory_gib_low": float(used.low[i]) / _GIB,
        "memory_gib_high": float(used.high[i]) / _GIB,
        "communication_share": float(sum(getattr(parts, name)[0] for name in _COMMUNICATION) / total),
        "bubble_share": float(parts.bubble[0] / total),
        "layout": layout_name(layouts, i),
    }


def why(
    layouts: Layouts, job: TrainingJob, steps: Calibration, memories: Calibration, text: str
) -> list[tuple[str, str]]:
    """One layout line by line: where each second and each byte goes.

    Args:
        layouts: all layouts.
        job: what they are layouts of.
        steps: calibration of step time.
        memories: calibration of memory.
        text: `dp=8,tp=2`; the fastest layout with these values is explained.

    Raises:
        ConfigError: not of that form, or no layout has the values.
    """
    i = find(layouts, text, job)
    parts = _parts(layouts.points, steps, job, i)
    bytes_ = memory(layouts.points[i : i + 1], memories.constants_of(job.system, layouts.points[i : i + 1]))
    expected = layouts.step.value[i] / parts.total[0]
    lines = [("layout", layout_name(layouts, i)), ("", "")]
    for field in fields(StepTime):
        seconds = float(getattr(parts, field.name)[0]) * expected
        if seconds >= 5e-4 * layouts.step.value[i]:
            share = seconds / layouts.step.value[i]
            lines.append((_PART_WORDS[field.name], f"{seconds * 1e3:10.1f} ms  {100 * share:5.1f} %"))
    lines.append(
        (
            "a step",
            f"{layouts.step.value[i] * 1e3:10.1f} ms  ({layouts.step.low[i]:.3g} to {layouts.step.high[i]:.3g} s)",
        )
    )
    lines.append(("", ""))
    shown = layouts.memory.value[i] / bytes_.total[0]
    for name in ("weights", "gradients", "optimizer", "gathered", "activations", "logits", "fixed"):
        gib = float(getattr(bytes_, name)[0]) * shown / _GIB
        if gib >= 0.005:
            lines.append((f"memory: {name}", f"{gib:10.2f} GiB"))
    lines.append(
        (
            "memory: fullest rank",
            (
                f"{layouts.memory.value[i] / _GIB:10.2f} GiB  ({layouts.memory.low[i] / _GIB:.1f} to "
                f"{layouts.memory.high[i] / _GIB:.1f} of {job.hardware.memory_bytes / _GIB:.0f})"
            ),
        )
    )
    lines.append(("verdict", _verdict(layouts, job, i)))
    return lines


def find(layouts: Layouts, text: str, job: TrainingJob) -> int:
    """Index of the fastest layout with the values of `dp=8,tp=2`.

    Raises:
        ConfigError: not of that form, or there is none: says which value cannot be, and which could.
    """
    every = [layout_values(layouts, i) for i in range(len(layouts))]
    columns = {name: np.array([values[name] for values in every]) for name in every[0]}
    requested: dict[str, str] = {}
    for pair in text.split(","):
        name, _, value = (word.strip() for word in pair.partition("="))
        if not value or name not in columns:
            wrong = f"got {pair.strip()!r}, " if pair.strip() != text else ""
            raise ConfigError(
                f"--why {text!r}: {wrong}expected values like dp=8,tp=2; names: {', '.join(columns)}"
            )
        if name in requested:
            raise ConfigError(f"--why {text!r}: {name} is given twice; expected one value of it")
        if name not in ("shard", "recompute") and not (value.isascii() and value.isdecimal() and int(value)):
            raise ConfigError(f"--why {text!r}: {name} is {value!r}; expected a whole number above 0")
        requested[name] = value if name in ("shard", "recompute") else str(int(value))
    rows = np.all([columns[name].astype(str) == value for name, value in requested.items()], axis=0)
    if not rows.any():
        raise ConfigError(f"--why {text!r}: {impossible(columns, requested, job_facts(job))}")
    return int(np.flatnonzero(rows)[0])


def sentences(layouts: Layouts, job: TrainingJob, steps: Calibration) -> list[str]:
    """What binds the best layout, what would relieve it, and why its neighbours lose."""
    if not (layouts.fits | layouts.tight).any():
        return [_nothing_fits(layouts, job)]
    best = layout_values(layouts, 0)
    parts = _parts(layouts.points, steps, job, 0)
    shares = {f.name: float(getattr(parts, f.name)[0] / parts.total[0]) for f in fields(StepTime)}
    largest = max((name for name in shares if name != "matmul"), key=shares.__getitem__)
    lines = [
        (
            f"Matrix products are {100 * shares['matmul']:.0f} % of a step; the next largest part is "
            f"{_PART_WORDS[largest]} with {100 * shares[largest]:.0f} %."
        )
    ]
    faster = np.flatnonzero(~layouts.fits & (layouts.step.value < 0.99 * layouts.step.value[0]))
    if len(faster):
        # Of those that gain nearly as much as any, the one that lacks the least.
        gains = layouts.step.value[0] / layouts.step.value[faster] - 1
        most = faster[gains >= 0.8 * gains.max()]
        other = int(most[np.argmin(layouts.memory.high[most])])
        gain = layouts.step.value[0] / layouts.step.value[other] - 1
        lacks = layouts.memory.high[other] - job.hardware.memory_bytes
        binds = "Memory binds" if gain >= _HARDLY else "Memory hardly binds"
        lines.append(
            f"{binds}: {layout_name(layouts, other)} would be {100 * gain:.0f} % faster and needs up to "
            f"{max(lacks, 0) / _GIB:.1f} GiB more than a device has."
        )
        lines += _relief(layouts, best)
    else:
        lines.append("Memory does not bind: no faster layout was left out for it.")
    for name, changed in (
        ("tp", "tensor parallelism"),
        ("pp", "pipeline parallelism"),
        ("shard", "sharding"),
    ):
        rows = [
            i
            for i in range(1, len(layouts))
            if layouts.fits[i] and layout_values(layouts, i)[name] != best[name]
        ]
        if rows:
            i = rows[0]
            slower = layouts.step.value[i] / layouts.step.value[0] - 1
            inside = "within the error bars, " if layouts.step.low[i] < layouts.step.value[0] else ""
            lines.append(
                f"With other {changed} ({name}={layout_values(layouts, i)[name]}) the best is {100 * slower:.1f} % "
                f"slower, {inside}{_verdict_short(layouts, i)}."
            )
    return lines


def _relief(layouts: Layouts, best: dict[str, Any]) -> list[str]:
    """What recomputation buys where memory binds: the best layout that fits without it, beside the best one."""
    without = next(
        (
            i
            for i in range(1, len(layouts))
            if layouts.fits[i] and layout_values(layouts, i)["recompute"] == "none"
        ),
        None,
    )
    if best["recompute"] == "none" or without is None:
        return []
    gain = layouts.step.value[without] / layouts.step.value[0] - 1
    bought = f"Recomputation ({best['recompute']}) buys micro_batch={best['micro_batch']}"
    return [f"{bought}: {100 * gain:.1f} % faster than the best without it, {layout_name(layouts, without)}."]


def first_runnable(layouts: Layouts, job: TrainingJob) -> int | None:
    """Index of the best layout that fits and that `headrace train` has; None where there is none.

    The planner also knows selective recomputation, more than two stages a rank, context parallelism and uneven stages.
    """
    for i in np.flatnonzero(layouts.fits | layouts.tight):
        values = layout_values(layouts, int(i))
        stages = values["pp"] * values["interleave"]
        if (
            values["recompute"] != "selective"
            and values["interleave"] <= 2
            and values["cp"] == 1
            and job.shape.num_layers % stages == 0
            and job.seq_len % values["tp"] == 0
            and (values["pp"] == 1 or job.global_batch >= stages * values["dp"] * values["micro_batch"])
        ):
            return int(i)
    return None


def command(job: TrainingJob, layouts: Layouts, i: int, *, model: str, store: str = "STORE") -> str:
    """The torchrun command that trains this layout with headrace."""
    values = layout_values(layouts, i)
    nodes = max(1, -(-job.gpus // job.hardware.gpus_per_node))
    nodes = next(n for n in range(nodes, job.gpus + 1) if job.gpus % n == 0)  # each has as many processes
    words = [
        f"torchrun --nnodes {nodes} --nproc-per-node {job.gpus // nodes}",
        *(["--rdzv-backend c10d --rdzv-endpoint HOST:29500"] if nodes > 1 else []),
        f"-m headrace train {shlex.quote(store)} --out RUN --model {model}",
        f"--seq-len {job.seq_len} --batch-size {job.global_batch}",
        f"--dp {values['dp']} --tp {values['tp']} --pp {values['pp']} --shard {values['shard']}",
    ]
    micro = int(job.global_batch / values["dp"] / values["micro_batch"])
    if values["pp"] > 1:
        words.append(f"--microbatches {micro}")
        if values["interleave"] > 1:
            words.append("--pipeline-schedule interleaved")
    elif micro > 1:
        words.append(f"--gradient-accumulation-steps {micro}")
    if values["recompute"] != "none":
        words.append("--activation-checkpointing")
    return " ".join(words)


def duration(job: TrainingJob, layouts: Layouts, i: int, tokens: float) -> dict[str, float]:
    """Days and GPU hours to train on so many tokens."""
    steps = tokens / (job.global_batch * job.seq_len)
    seconds = steps * np.array([layouts.step.value[i], layouts.step.low[i], layouts.step.high[i]])
    return {
        "steps": float(np.ceil(steps)),
        "days": float(seconds[0] / _DAY_S),
        "days_low": float(seconds[1] / _DAY_S),
        "days_high": float(seconds[2] / _DAY_S),
        "gpu_hours": float(seconds[0] * job.gpus / 3600),
    }


def _parts(p: Points, steps: Calibration, job: TrainingJob, i: int) -> StepTime:
    one = p[i : i + 1]
    return step_time(one, steps.constants_of(job.system, one))


def _verdict(layouts: Layouts, job: TrainingJob, i: int) -> str:
    usable = job.hardware.memory_bytes
    if layouts.fits[i]:
        slower = layouts.step.value[i] / layouts.step.value[0] - 1
        return (
            "the best one that surely fits" if i == 0 else f"fits; {100 * slower:.1f} % slower than the best"
        )
    if layouts.tight[i]:
        words = f"may fit: the upper bound is {(layouts.memory.high[i] - usable) / _GIB:.1f} GiB too much"
    else:
        words = f"does not fit: {(layouts.memory.value[i] - usable) / _GIB:.1f} GiB too much"
    return words + _cure(layouts, job, i)


def _cure(layouts: Layouts, job: TrainingJob, i: int) -> str:
    """What makes a layout fit with the fewest changes, and what it costs."""
    mine = layout_values(layouts, i)
    best: tuple[int, int] | None = None
    for other in np.flatnonzero(layouts.fits)[:_CURES]:
        changes = sum(value != mine[name] for name, value in layout_values(layouts, int(other)).items())
        if best is None or changes < best[0]:  # the first one is the fastest with so many changes
            best = (changes, int(other))
    if best is None:
        return f"; no layout of this job surely fits. {_enough(layouts, job)}"
    values = layout_values(layouts, best[1])
    changed = ",".join(f"{name}={value}" for name, value in values.items() if value != mine[name])
    slower = layouts.step.value[best[1]] / layouts.step.value[i] - 1
    return f"; {changed} fits and is {100 * abs(slower):.0f} % {'slower' if slower >= 0 else 'faster'}"


def _verdict_short(layouts: Layouts, i: int) -> str:
    return f"{layouts.memory.value[i] / _GIB:.0f} GiB"


def _nothing_fits(layouts: Layouts, job: TrainingJob) -> str:
    least = int(np.argmin(layouts.memory.value))
    lacks = (layouts.memory.value[least] - job.hardware.memory_bytes) / _GIB
    return (
        f"Nothing fits: the smallest layout, {layout_name(layouts, least)}, lacks {lacks:.1f} GiB on each of "
        f"{job.gpus} GPUs of {job.hardware.memory_bytes / _GIB:.0f} GiB. {_enough(layouts, job)}"
    )


def _enough(layouts: Layouts, job: TrainingJob) -> str:
    """What would do where nothing surely fits."""
    times = float(layouts.memory.high.min()) / (job.hardware.memory_bytes * 0.97)
    gpus = int(np.ceil(job.gpus * max(times, 1.0)))
    return f"About {gpus} such GPUs, a shorter row, or GPUs with more memory would do."
