"""A request and what is in the run directory -> the recipe to run, and the files that begin a run."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.errors import ConfigError, ResumeError
from headrace.model import TokenTable, WordVectors, fresh_weight, token_table
from headrace.training.checkpoints.state import SavedState
from headrace.training.data import TrainingData
from headrace.training.options import ParallelOptions
from headrace.training.pretrained import Pretrained, is_untrained, save_tokenizer, write_weights
from headrace.training.recipe import Recipe, RecipeRequest, identity_of
from headrace.training.run_directory.run_json import RUN, check_same, write_run
from headrace.training.run_directory.run_log import RunLog
from headrace.training.run_directory.segments import (
    RunSegment,
    read_segments,
    recipe_at,
    segments_json,
    start_segments,
    steps_of_tokens,
)
from headrace.training.step.device import resolve_dtype
from headrace.training.step.trainable import TrainableModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run."""

    steps: int | None
    tokens: int | None
    max_seconds: float | None

    def __post_init__(self) -> None:
        """Refuse two numbers for one thing."""
        if self.steps is not None and self.tokens is not None:
            raise ConfigError("train: steps and tokens are both given. Leave one out.")


def resolve_recipe(
    request: RecipeRequest,
    data: TrainingData,
    run: Mapping[str, Any] | None,
    saved: SavedState | None,
    *,
    out: Path,
    limits: Limits,
    dtype: str,
    device: torch.device,
) -> Recipe:
    """The recipe of a fresh run, or that of the next steps of one that was started before.

    With max_seconds the steps of a fresh run are still to be measured. What the machine decided at the first
    start (steps that fit a time, the dtype of auto) stays decided.

    Raises:
        ConfigError: nothing ends the run, or options that do not fit together.
        ResumeError: another model or other data than the run's, which says what differs; fewer steps than done.
    """
    if run is None or is_untrained(run):
        if limits.steps is None and limits.tokens is None and limits.max_seconds is None:
            raise ConfigError("train: neither steps nor max_seconds is given; one of them must end the run.")
        return resolve_steps(request, data, limits, dtype=resolve_dtype(dtype, device))
    before = run["recipe"]
    try:
        kept = limits.max_seconds is not None or (limits.steps is None and limits.tokens is None)
        resolve = functools.partial(
            request.resolve,
            vocab_size=data.source.vocab_size,
            data_identity=data.identity(),
            dtype=before["dtype"] if dtype == "auto" else resolve_dtype(dtype, device),
            before=before,
        )
        recipe = resolve(steps=before["steps"] if kept or limits.steps is None else limits.steps)
        if limits.tokens is not None and not kept:
            segments = read_segments(run, recipe)
            recipe = resolve(steps=_steps_of_tokens(limits.tokens, recipe, segments, saved))
    except KeyError as error:
        raise ResumeError(
            f"{out / RUN}: its recipe has no {error}. Damaged? Give another directory with --out."
        ) from error
    requested = {"max_seconds": limits.max_seconds} if limits.max_seconds is not None else {}
    check_same(
        out,
        {**identity_of(before), **{name: run.get(name) for name in requested}},
        {**identity_of(recipe.to_json()), **requested},
    )
    done = 0 if saved is None else saved.step
    if recipe.steps < done:
        raise ResumeError(
            f"{out}: the run has done {done:,} steps, requested are {recipe.steps:,} in all. Ask for more, or begin a "
            f"branch in another directory: --init-from {out}@{recipe.steps} --init-state full."
        )
    return recipe


def resolve_steps(
    request: RecipeRequest, data: TrainingData, limits: Limits, *, dtype: str, measured: int | None = None
) -> Recipe:
    """The recipe of a fresh run.

    Args:
        request: what the caller gave.
        data: the rows.
        limits: what ends the run.
        dtype: of matrix products.
        measured: steps that fit max_seconds; None before they are known.
    """
    resolve = functools.partial(
        request.resolve, vocab_size=data.source.vocab_size, data_identity=data.identity(), dtype=dtype
    )
    steps = limits.steps
    if limits.tokens is not None:
        steps = _steps_of_tokens(limits.tokens, resolve(steps=1), [], None)
    ends = [number for number in (steps, measured) if number is not None]
    return resolve(steps=min(ends, default=1))


def _steps_of_tokens(
    tokens: int, recipe: Recipe, segments: Sequence[RunSegment], saved: SavedState | None
) -> int:
    """Steps in all of a run that has a checkpoint, or none, until it has read so many tokens."""
    step, done = (0, 0) if saved is None else (saved.step, saved.tokens)
    # Steps that an earlier start took with another recipe, and that are taken again.
    for again in range(step + 1, max((s.first_step for s in segments), default=0)):
        schedule = recipe_at(segments, again).schedule
        done += schedule.micro_batches_at(again) * schedule.micro_batch_size * recipe.seq_len
        step = again
    return max(1, steps_of_tokens(tokens, recipe=recipe, step=step, tokens_done=done))


def first_table(recipe: Recipe, vectors: WordVectors, data: TrainingData) -> TokenTable:
    """The token table that a run with embeddings starts from."""
    shape = (recipe.model.vocab_size, recipe.model.hidden_size)
    fresh = fresh_weight("tok.weight", shape, num_layers=recipe.model.num_hidden_layers, seed=recipe.seed)
    return token_table(vectors, data.source.tokenizer, fresh)


def begin_run(
    out: Path,
    recipe: Recipe,
    data: TrainingData,
    *,
    max_seconds: float | None,
    table: TokenTable | None,
    pretrained: Pretrained | None,
    machine: Mapping[str, Any],
) -> list[RunSegment]:
    """Fill the run directory: tokenizer, weights to begin with, run.json; returns the run's one segment."""
    if pretrained is not None:
        write_weights(pretrained, out, frozen=recipe.lora is not None)
    save_tokenizer(data.source.tokenizer, out / "tokenizer")
    segments = start_segments([], step=0, recipe=recipe, machine=machine)
    write_run(
        out,
        {
            "recipe": recipe.to_json(),
            "segments": segments_json(segments),
            "max_seconds": max_seconds,
            "parameters": recipe.model.num_parameters,
            "trainable_parameters": recipe.num_trainable_parameters,
            "flops_per_token": recipe.flops_per_token,
            "tokenizer": {
                "name": data.source.tokenizer.name,
                "vocab_size": data.source.tokenizer.vocab_size,
                "fingerprint": data.source.tokenizer_fingerprint,
            },
            "embeddings": None
            if table is None
            else {"found": int(table.hit.sum()), "tokens": len(table.hit), "hit_rate": table.hit_rate},
            "imported": None if pretrained is None else pretrained.to_json(),
            "base": None if recipe.lora is None or pretrained is None else pretrained.base_json(out),
            "stores": data.snapshots,
            **machine,
        },
    )
    return segments


def continue_run(
    out: Path,
    run: Mapping[str, Any],
    recipe: Recipe,
    *,
    step: int,
    limits: Limits,
    machine: Mapping[str, Any],
) -> list[RunSegment]:
    """Write run.json of another start; returns its segments."""
    before = read_segments(run, recipe)
    if step >= recipe.steps:  # nothing is left to do
        write_run(out, {**run, **machine})
        return before
    segments = start_segments(before, step=step, recipe=recipe, machine=machine)
    counts = limits.max_seconds is None and (limits.steps is not None or limits.tokens is not None)
    write_run(
        out,
        {
            **run,
            "recipe": recipe.to_json(),
            "segments": segments_json(segments),
            "max_seconds": None if counts else run.get("max_seconds"),
            **machine,
        },
    )
    return segments


def describe_changes(segments: Sequence[RunSegment], step: int) -> list[str]:
    """One line for each segment that begins after a step: what it changes, and the learning rate's jump.

    >>> describe_changes([], 0)
    []
    """
    lines = []
    for before, segment in itertools.pairwise(segments):
        first = segment.first_step
        if first <= step:
            continue
        changed = [f"{name} {old} -> {new}" for name, (old, new) in segment.changes(before).items()]
        rates = f"{before.recipe.schedule.lr_at(first - 1):.3g} -> {segment.recipe.schedule.lr_at(first):.3g}"
        lines.append(f"from step {first:,} on: {', '.join(changed)} (learning rate {rates})")
    return lines


def warn_of_surprises(
    log: RunLog, recipe: Recipe, *, num_rows: int, warmup_given: bool, cuts_conversations: bool = False
) -> None:
    """Options that are allowed and rarely meant."""
    if cuts_conversations:
        log.add_warning(
            "train: a store has conversations, and rows cut the stream every seq_len tokens: answers whose question is "
            "in another row are learned without it. Use packing best_fit (--packing best_fit --separate-documents)."
        )
    if num_rows < recipe.batch_size:
        log.add_warning(
            f"train: the stores hold {num_rows} rows of seq_len {recipe.seq_len}, fewer than "
            f"batch_size {recipe.batch_size}: rows repeat within one step."
        )
    if warmup_given and recipe.warmup_steps > recipe.steps:
        log.add_warning(
            f"train: warmup_steps {recipe.warmup_steps} are more than the run's {recipe.steps} steps: the peak "
            f"learning rate {recipe.lr} is never reached."
        )


def describe_machine(
    parallel: ParallelOptions, device: torch.device, *, num_processes: int, dtype: str
) -> dict[str, Any]:
    """What this start runs on, for run.json and the report; free to change between starts."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "processes": num_processes,
        "nodes": num_processes // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))),
        "layout": {
            "dp": parallel.dp,
            "tp": parallel.tp,
            "pp": parallel.pp,
            "shard": parallel.shard,
            "pipeline_schedule": parallel.pipeline_schedule if parallel.pp > 1 else None,
            "microbatches": parallel.microbatches if parallel.pp > 1 else None,
            "activation_checkpointing": parallel.activation_checkpointing,
            "compile": parallel.compile,
        },
        "device": str(device),
        "device_name": name,
        "dtype": dtype,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def measure_steps(
    model: TrainableModel, max_seconds: float, *, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Optimizer steps that fit into max_seconds here, measured on random ids; the model is used up."""
    recipe = model.recipe
    rows = recipe.schedule.micro_batch_size // model.parallel.dp
    ids = torch.randint(recipe.model.vocab_size, (rows, recipe.seq_len + 1))
    step_s: list[float] = []
    # Long enough that a moment in which the machine is busy with something else does not decide.
    while len(step_s) < 5 or sum(step_s) < min(3.0, max_seconds / 40):
        start = clock()
        for _ in range(recipe.gradient_accumulation_steps):
            model.forward_backward(ids[:, :-1], ids[:, 1:])
        float(model.finish_gradients())  # waits for the device
        model.update(lr=0.0, counted=1.0, square=0.0)
        step_s.append(clock() - start)
    return max(1, int(max_seconds / statistics.median(step_s[1:])))
