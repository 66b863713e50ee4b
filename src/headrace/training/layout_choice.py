"""A recipe, processes and their hardware -> the layout that trains fastest: planned, and measured where it is close.

The plan ranks every layout of the recipe on these processes. Where others lie within the error bars of the best one,
the most promising ones train for some steps each on random ids, and the fastest is kept. A resumed run on as many
processes keeps the layout that was chosen.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from headrace.errors import ConfigError
from headrace.model import DecoderConfig
from headrace.plan import (
    Hardware,
    Layouts,
    ModelShape,
    TrainingJob,
    calibrations,
    layout_values,
    search,
    system_of_hardware,
)
from headrace.probe import describe_hardware, probe_group
from headrace.training.distributed.layout import check_layout, device_mesh
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.options import ParallelOptions
from headrace.training.recipe import Recipe
from headrace.training.step.trainable import TrainableModel

MAX_TRIALS = 6
"""Layouts that are measured at most."""
_FINALISTS = 3
_CLOSE = 1.15
"""Layouts up to so many times the fastest trial are measured again: the machine may have been busy."""
_TRIAL_STEPS = 5
_TRIAL_S = 2.0
"""A trial ends after _TRIAL_STEPS steps, or after 2 steps that took so long."""
_FIGURES = ("float32_flops", "bf16_flops", "memory_bytes_s", "link_bytes_s", "collective_latency_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutChoice:
    """The layout that a run takes, and why."""

    parallel: ParallelOptions
    """Resolved: dp is known, layout is "auto"."""
    gradient_accumulation_steps: int
    record: Mapping[str, Any]
    """For run.json: prediction, hardware, and what was measured."""
    note: str
    """One line for the log."""


def earlier_choice(
    run: Mapping[str, Any] | None, requested: ParallelOptions, *, processes: int
) -> LayoutChoice | None:
    """What an earlier start of the run chose for as many processes; None where it has to be chosen again."""
    record = (run or {}).get("plan")
    if not isinstance(record, dict) or record.get("processes") != processes:
        return None
    try:
        parallel = _parallel(requested, record["parallel"])
        accumulation = int(record["gradient_accumulation_steps"])
    except (KeyError, TypeError, ValueError, ConfigError):
        return None
    if any(getattr(parallel, name) != value for name, value in _fixed(requested).items() if name in _DEGREES):
        return None
    return LayoutChoice(
        parallel=parallel,
        gradient_accumulation_steps=accumulation,
        record=record,
        note=f"layout auto: {_text(parallel)}, as before",
    )


def choose_layout(
    recipe: Recipe,
    requested: ParallelOptions,
    *,
    group: ProcessGroup,
    device: torch.device,
    keep_accumulation: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> LayoutChoice:
    """Plan, and measure where the plan is unsure; every process calls it and gets the same choice.

    Args:
        recipe: of the run.
        requested: degrees and options other than the defaults are kept; the rest is chosen.
        group: the processes.
        device: of this process.
        keep_accumulation: the recipe's gradient_accumulation_steps may not change.
        clock: seconds.

    Raises:
        ConfigError: no layout has the requested degrees on these processes, or none fits.
    """
    hardware = _hardware(group, device)
    accumulation = recipe.gradient_accumulation_steps if keep_accumulation else None
    layouts, rows = group.on_all_ranks(
        lambda: _candidates(recipe, requested, hardware, group.size, accumulation)
    )
    options = [_options(recipe, requested, layouts, row, accumulation) for row in rows]
    trials = _promising(layouts, rows, options)
    measured = {0: float("nan")}
    if len(trials) > 1:
        measured = _measure(recipe, trials, options, group=group, device=device, clock=clock)
    best = min(measured, key=measured.__getitem__) if len(trials) > 1 else trials[0]
    parallel, steps = options[best]
    record = {
        "processes": group.size,
        "parallel": _values(parallel),
        "gradient_accumulation_steps": steps,
        **_prediction(layouts, rows[best]),
        "hardware": {k: v for k, v in dataclasses.asdict(hardware).items() if v},
        "measured": [
            {
                "layout": _text(options[i][0]),
                "gradient_accumulation_steps": options[i][1],
                "predicted_step_s": float(layouts.step.value[rows[i]]),
                "measured_step_s": seconds,
            }
            for i, seconds in measured.items()
            if len(trials) > 1
        ],
    }
    how = f"the fastest of {len(measured)} that were measured" if len(trials) > 1 else "by the plan alone"
    note = (
        f"layout auto: {_text(parallel)}, {how}; {len(rows)} layouts fit; predicted "
        f"{record['step_s']:.3g} s a step ({record['step_s_low']:.3g} to {record['step_s_high']:.3g})"
    )
    return LayoutChoice(parallel=parallel, gradient_accumulation_steps=steps, record=record, note=note)


def _hardware(group: ProcessGroup, device: torch.device) -> Hardware:
    """What the processes measure at the same time; the slowest one's figures count."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", group.size))
    collectives = None if device.type == "cuda" else group.collectives
    found = probe_group(collectives, size=group.size, device=str(device), with_node=False, seconds=0.1)
    table = group.gather([found.get(name, float("nan")) for name in _FIGURES])
    figures = {}
    for name, column in zip(_FIGURES, table.T.tolist(), strict=True):
        known = [value for value in column if value == value]  # noqa: PLR0124  # not a number: not measured
        if known:
            figures[name] = max(known) if name == "collective_latency_s" else min(known)
    return group.on_rank0(lambda: describe_hardware(figures, devices=local, device=str(device)))


def _candidates(
    recipe: Recipe, requested: ParallelOptions, hardware: Hardware, processes: int, accumulation: int | None
) -> tuple[Layouts, list[int]]:
    """All layouts, and the indices of those that `headrace train` can run and that fit, the fastest first."""
    config = recipe.model
    job = TrainingJob(
        shape=ModelShape(
            name=recipe.model_name,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            ffn_size=getattr(config, "intermediate_size", 0),
            vocab_size=config.vocab_size,
            gated=isinstance(config, DecoderConfig),
            tied=config.tie_word_embeddings,
        ),
        hardware=hardware,
        gpus=processes,
        seq_len=recipe.seq_len,
        global_batch=recipe.batch_size,
        dtype="float32" if recipe.dtype == "float32" else "bf16",
        system=None,
    )
    steps, memories = calibrations()
    job = dataclasses.replace(job, system=system_of_hardware(hardware, steps))
    layouts = search(job, steps, memories, fixed=_fixed(requested))
    possible = [i for i in range(len(layouts)) if _can_run(recipe, requested, layouts, i, accumulation)]
    if not possible:
        raise ConfigError(
            f"train: layout auto: {processes} processes and {recipe.batch_size} rows have no layout with "
            f"{_fixed(requested) or 'any degrees'}. Change batch_size, a degree or the number of processes."
        )
    fitting = [i for i in possible if layouts.fits[i]] or [i for i in possible if layouts.tight[i]]
    if not fitting:
        least = min(possible, key=lambda i: float(layouts.memory.value[i]))
        raise ConfigError(
            f"train: layout auto: no layout fits into {hardware.memory_bytes / 2**30:.1f} GiB of a process; the "
            f"smallest one needs about {layouts.memory.value[least] / 2**30:.1f} GiB. Start more processes, take "
            f"a smaller batch_size or seq_len, or give the layout yourself."
        )
    return layouts, fitting


_DEGREES = ("dp", "tp", "pp", "shard")


def _fixed(requested: ParallelOptions) -> dict[str, int | str]:
    """Degrees that the user gave: what is not the default."""
    fixed: dict[str, int | str] = {
        name: getattr(requested, name)
        for name, default in (("dp", -1), ("tp", 1), ("pp", 1), ("shard", "none"))
        if getattr(requested, name) != default
    }
    if requested.activation_checkpointing:
        fixed["recompute"] = "full"
    return fixed


def _can_run(
    recipe: Recipe, requested: ParallelOptions, layouts: Layouts, i: int, accumulation: int | None
) -> bool:
    """Whether training has this layout: the planner knows schedules and recomputation that it does not."""
    values = layout_values(layouts, i)
    pp, interleave = values["pp"], values["interleave"]
    if values["recompute"] == "selective" or interleave > 2 or values["cp"] > 1:
        return False
    if recipe.model.num_hidden_layers % (pp * interleave) or (
        interleave == 2 and requested.pipeline_schedule == "gpipe"
    ):
        return False
    parallel, steps = _options(recipe, requested, layouts, i, accumulation)
    rows = (parallel.microbatches or 1 if pp > 1 else 1) * values["micro_batch"] * values["dp"]
    kept = recipe.gradient_accumulation_steps if recipe.rampup_batch_size is not None else accumulation
    if rows * steps != recipe.batch_size or kept not in (None, steps):
        return False
    if pp > 1 and (parallel.microbatches or 1) < parallel.num_stages:  # torch's 1F1B schedules refuse it
        return False
    try:
        check_layout(parallel, dataclasses.replace(recipe, gradient_accumulation_steps=steps))
    except ConfigError:
        return False
    return True


def _options(
    recipe: Recipe, requested: ParallelOptions, layouts: Layouts, i: int, accumulation: int | None
) -> tuple[ParallelOptions, int]:
    """A planned layout as options of train, with its gradient_accumulation_steps."""
    values = layout_values(layouts, i)
    rounds = recipe.batch_size // (values["dp"] * values["micro_batch"])
    steps = rounds if values["pp"] == 1 else accumulation or recipe.gradient_accumulation_steps
    parallel = dataclasses.replace(
        requested,
        dp=values["dp"],
        tp=values["tp"],
        pp=values["pp"],
        shard=values["shard"],
        pipeline_schedule="interleaved" if values["interleave"] == 2 else requested.pipeline_schedule,
        microbatches=rounds // steps or 1 if values["pp"] > 1 else requested.microbatches,
        activation_checkpointing=values["recompute"] == "full",
    )
    return parallel, steps


def _promising(layouts: Layouts, rows: list[int], options: list[tuple[ParallelOptions, int]]) -> list[int]:
    """Places in rows of the layouts to measure: within the error bars of the best one, of many kinds.

    The best of each combination of degrees comes first: what a formula misses, all layouts of one kind miss.
    """
    reach = float(layouts.step.high[rows[0]])
    close = [place for place, row in enumerate(rows) if place == 0 or layouts.step.low[row] < reach]
    first: dict[tuple[Any, ...], int] = {}
    for place in close:
        parallel = options[place][0]
        first.setdefault((parallel.dp, parallel.tp, parallel.pp, parallel.shard), place)
    chosen = list(first.values())[:MAX_TRIALS]
    chosen += [place for place in close if place not in chosen][: MAX_TRIALS - len(chosen)]
    return chosen


def _measure(
    recipe: Recipe,
    trials: list[int],
    options: list[tuple[ParallelOptions, int]],
    *,
    group: ProcessGroup,
    device: torch.device,
    clock: Callable[[], float],
) -> dict[int, float]:
    """Seconds of a step of each trial; those close to the fastest are measured twice, in the other order."""

    def seconds(place: int) -> float:
        parallel, steps = options[place]
        tried = dataclasses.replace(recipe, gradient_accumulation_steps=steps)
        return _step_seconds(tried, parallel, group=group, device=device, clock=clock)

    measured = {place: seconds(place) for place in trials}
    ranked = sorted(measured, key=measured.__getitem__)[:_FINALISTS]
    close = [place for place in ranked if measured[place] <= _CLOSE * measured[ranked[0]]]
    for place in reversed(close) if len(close) > 1 else ():
        measured[place] = min(measured[place], seconds(place))
    return measured


def _step_seconds(
    recipe: Recipe,
    parallel: ParallelOptions,
    *,
    group: ProcessGroup,
    device: torch.device,
    clock: Callable[[], float],
) -> float:
    """Median seconds of a step on random ids, of the slowest process."""
    torch.manual_seed(recipe.seed)  # ranks that hold parts of one replica take the same rows
    mesh = device_mesh(parallel, device)
    model = TrainableModel(recipe, device, parallel=parallel, mesh=mesh)
    rows = recipe.schedule.micro_batch_size // parallel.dp
    ids = torch.randint(recipe.model.vocab_size, (rows, recipe.seq_len + 1))
    times: list[float] = []
    while True:
        start = clock()
        for part in range(recipe.gradient_accumulation_steps):
            is_last = part == recipe.gradient_accumulation_steps - 1
            model.forward_backward(ids[:, :-1], ids[:, 1:], last=is_last)
        square = float(model.finish_gradients())  # waits for the device
        group.gather([square])
        model.update(lr=0.0, counted=1.0, square=square)
        slowest = float(group.gather([clock() - start]).max())
        times.append(slowest)
        if len(times) > _TRIAL_STEPS or (len(times) > 2 and sum(times[1:]) > _TRIAL_S):
            break
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return statistics.median(times[1:])  # the first one warms up


def _prediction(layouts: Layouts, i: int) -> dict[str, Any]:
    step, used, gib = layouts.step, layouts.memory, 2.0**30
    return {
        "step_s": float(step.value[i]),
        "step_s_low": float(step.low[i]),
        "step_s_high": float(step.high[i]),
        "memory_gib": float(used.value[i]) / gib,
        "memory_gib_low": float(used.low[i]) / gib,
        "memory_gib_high": float(used.high[i]) / gib,
    }


_KEPT = ("dp", "tp", "pp", "shard", "pipeline_schedule", "microbatches", "activation_checkpointing")


def _values(parallel: ParallelOptions) -> dict[str, Any]:
    return {name: getattr(parallel, name) for name in _KEPT}


def _parallel(requested: ParallelOptions, values: Mapping[str, Any]) -> ParallelOptions:
    return dataclasses.replace(requested, **{name: values[name] for name in _KEPT})


def _text(parallel: ParallelOptions) -> str:
    words = [f"dp {parallel.dp}", f"tp {parallel.tp}", f"pp {parallel.pp}", f"shard {parallel.shard}"]
    if parallel.pp > 1:
        words.append(f"{parallel.pipeline_schedule} with {parallel.microbatches} microbatches")
    if parallel.activation_checkpointing:
        words.append("activation checkpointing")
    return ", ".join(words)
