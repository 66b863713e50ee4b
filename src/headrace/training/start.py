"""What was asked for and what stands in the run directory -> the recipe to run, and its run.json."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from headrace.errors import ConfigError
from headrace.model.embed import TokenTable, WordVectors, token_table
from headrace.model.gpt import fresh_weight
from headrace.training.data import TrainingData
from headrace.training.pretrained import Pretrained, is_untrained, save_tokenizer, write_weights
from headrace.training.recipe import Recipe, RecipeRequest, refuse_other, write_run
from headrace.training.trainable import resolve_dtype


def settle(
    asked: RecipeRequest,
    data: TrainingData,
    found: Mapping[str, Any] | None,
    *,
    out: Path,
    steps: int | None,
    max_seconds: float | None,
    dtype: str,
    device: torch.device,
) -> Recipe:
    """The recipe of a fresh run, or that of one that was started before, if the same is asked for now.

    With max_seconds a fresh run's steps are still to be measured. What the machine decided at the first start
    (steps that fit a time, the dtype of auto) stays decided.

    Raises:
        ConfigError: neither steps nor max_seconds, or options that make no sense.
        ResumeError: something else is asked for; says what differs.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ConfigError(f"train: max_seconds is {max_seconds}; wanted more than 0.")
    resolve = functools.partial(asked.resolve, vocab_size=data.source.vocab_size, data=data.describe())
    if found is None or is_untrained(found):
        if steps is None and max_seconds is None:
            raise ConfigError("train: neither steps nor max_seconds is given; one of them must end the run.")
        return resolve(steps=1 if steps is None else steps, dtype=resolve_dtype(dtype, device))
    was = found["recipe"]
    recipe = resolve(
        steps=was["steps"] if steps is None or max_seconds is not None else steps,
        dtype=was["dtype"] if dtype == "auto" else resolve_dtype(dtype, device),
    )
    refuse_other(
        out,
        {**was, "max_seconds": found["max_seconds"]},
        {**recipe.to_json(), "max_seconds": max_seconds},
    )
    return recipe


def first_table(recipe: Recipe, vectors: WordVectors, data: TrainingData) -> TokenTable:
    """The token table that a run with embeddings starts from."""
    shape = (recipe.model.vocab_size, recipe.model.hidden_size)
    fresh = fresh_weight("tok.weight", shape, num_layers=recipe.model.num_hidden_layers, seed=recipe.seed)
    return token_table(vectors, data.source.tokenizer, fresh)


def begin(
    out: Path,
    recipe: Recipe,
    data: TrainingData,
    *,
    max_seconds: float | None,
    device: torch.device,
    table: TokenTable | None,
    pretrained: Pretrained | None,
) -> None:
    """Make the run directory: tokenizer, weights to begin with, run.json."""
    out.mkdir(parents=True, exist_ok=True)
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
            "embeddings": None
            if table is None
            else {"found": int(table.hit.sum()), "tokens": len(table.hit), "hit_rate": table.hit_rate},
            "imported": None if pretrained is None else pretrained.to_json(),
            "stores": data.places,
            "device": str(device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    )
