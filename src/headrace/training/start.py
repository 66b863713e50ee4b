"""A request and what is in the run directory -> the recipe to run, and the files that begin a run."""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.errors import ConfigError, ResumeError
from headrace.model import TokenTable, WordVectors, fresh_weight, token_table
from headrace.training.data import TrainingData
from headrace.training.device import resolve_dtype
from headrace.training.options import ParallelOptions
from headrace.training.pretrained import Pretrained, is_untrained, save_tokenizer, write_weights
from headrace.training.recipe import Recipe, RecipeRequest
from headrace.training.run_json import RUN, check_same, write_run
from headrace.training.trainable import TrainableModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run."""

    steps: int | None
    max_seconds: float | None


def resolve_recipe(
    request: RecipeRequest,
    data: TrainingData,
    run: Mapping[str, Any] | None,
    *,
    out: Path,
    limits: Limits,
    dtype: str,
    device: torch.device,
) -> Recipe:
    """The recipe of a fresh run, or that of one that was started before, if the same is requested now.

    With max_seconds the steps of a fresh run are still to be measured. What the machine decided at the first
    start (steps that fit a time, the dtype of auto) stays decided.

    Raises:
        ConfigError: neither steps nor max_seconds, or options that do not fit together.
        ResumeError: something else is requested; says what differs.
    """
    steps, max_seconds = limits.steps, limits.max_seconds
    resolve = functools.partial(
        request.resolve, vocab_size=data.source.vocab_size, data_identity=data.identity()
    )
    if run is None or is_untrained(run):
        if steps is None and max_seconds is None:
            raise ConfigError("train: neither steps nor max_seconds is given; one of them must end the run.")
        return resolve(steps=1 if steps is None else steps, dtype=resolve_dtype(dtype, device))
    before = run["recipe"]
    try:
        recipe = resolve(
            steps=before["steps"] if steps is None or max_seconds is not None else steps,
            dtype=before["dtype"] if dtype == "auto" else resolve_dtype(dtype, device),
        )
    except KeyError as error:
        raise ResumeError(
            f"{out / RUN}: its recipe has no {error}. Damaged? Give another directory with --out."
        ) from error
    check_same(
        out,
        {**before, "max_seconds": run.get("max_seconds")},
        {**recipe.to_json(), "max_seconds": max_seconds},
    )
    return recipe


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
) -> None:
    """Fill the run directory: tokenizer, weights to begin with, run.json."""
    if pretrained is not None:
        write_weights(pretrained, out)
    save_tokenizer(data.source.tokenizer, out / "tokenizer")
    write_run(
        out,
        {
            "recipe": recipe.to_json(),
            "max_seconds": max_seconds,
            "parameters": recipe.model.num_parameters,
            "flops_per_token": recipe.model.flops_per_token(recipe.seq_len),
            "tokenizer": {
                "name": data.source.tokenizer.name,
                "vocab_size": data.source.tokenizer.vocab_size,
                "fingerprint": data.source.tokenizer_fingerprint,
            },
            "embeddings": None
            if table is None
            else {"found": int(table.hit.sum()), "tokens": len(table.hit), "hit_rate": table.hit_rate},
            "imported": None if pretrained is None else pretrained.to_json(),
            "stores": data.snapshots,
            **machine,
        },
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
