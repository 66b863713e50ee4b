"""Options, a vocabulary and a number of steps -> the recipe: all that the loss curve depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.errors import ConfigError
from headrace.model import SIZES, GPTConfig, Size, gpt_config
from headrace.training.optim import TrainingSchedule
from headrace.training.options import DataOptions, OptimizerOptions

# The paper's: 375 million tokens of warm-up, a cosine over 260 billion.
WARMUP_TOKENS = 375_000_000
DECAY_TOKENS = 260_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that the loss curve depends on, except the layout that the run has."""

    model: GPTConfig
    model_name: str
    data: Mapping[str, Any]
    """What the rows are made of: fingerprints of stores and tokenizer, weights, loader options."""
    seq_len: int
    batch_size: int
    """Rows of an optimizer step, over all ranks."""
    gradient_accumulation_steps: int
    """Parts that the rows of a step are fetched and computed in."""
    steps: int
    seed: int
    lr: float
    warmup_steps: int
    decay_steps: int
    min_lr_ratio: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float
    """0: gradients are not clipped."""
    rampup_batch_size: int | None
    rampup_steps: int
    dtype: str
    """float32 or bfloat16, of matrix products; weights and optimizer are float32."""
    init_from: str | None = None
    """Where the first weights or embeddings came from, with their hash."""

    @property
    def schedule(self) -> TrainingSchedule:
        """Learning rate and rows by step."""
        return TrainingSchedule(
            steps=self.steps,
            lr=self.lr,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
            min_lr_ratio=self.min_lr_ratio,
            batch_size=self.batch_size,
            micro_batch_size=self.batch_size // self.gradient_accumulation_steps,
            rampup_batch_size=self.rampup_batch_size,
            rampup_steps=self.rampup_steps,
        )

    def to_json(self) -> dict[str, Any]:
        """The recipe as run.json holds it."""
        plain: dict[str, Any] = orjson.loads(orjson.dumps(dataclasses.asdict(self)))
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRequest:
    """What the caller of train() gave that the loss curve depends on; None is the paper's choice."""

    model: str | GPTConfig
    data: DataOptions
    optimizer: OptimizerOptions
    seed: int
    banded: bool
    init_from: str | None

    def resolve(self, *, vocab_size: int, data_identity: Mapping[str, Any], steps: int, dtype: str) -> Recipe:
        """Fill in the paper's choices.

        Raises:
            ConfigError: options that do not fit together, or not the model.
        """
        size, optimizer = size_of(self.model), self.optimizer
        of_model = size if isinstance(self.model, str) else self.model
        seq_len = self.data.seq_len or of_model.max_position_embeddings
        batch_size = self.data.batch_size or max(1, round(size.batch_tokens / seq_len))
        if batch_size % optimizer.gradient_accumulation_steps:
            raise ConfigError(
                f"train: batch_size {batch_size} is not divisible by gradient_accumulation_steps "
                f"{optimizer.gradient_accumulation_steps}."
            )
        tokens = batch_size * seq_len
        warmup_steps = min(-(-WARMUP_TOKENS // tokens), max(1, steps // 10))
        decay_steps = min(-(-DECAY_TOKENS // tokens), steps)
        recipe = Recipe(
            model=self._config(vocab_size, seq_len),
            model_name=self.model if isinstance(self.model, str) else "custom",
            data=data_identity,
            seq_len=seq_len,
            batch_size=batch_size,
            gradient_accumulation_steps=optimizer.gradient_accumulation_steps,
            steps=steps,
            seed=self.seed,
            lr=size.lr if optimizer.lr is None else optimizer.lr,
            warmup_steps=warmup_steps if optimizer.warmup_steps is None else optimizer.warmup_steps,
            decay_steps=decay_steps if optimizer.decay_steps is None else optimizer.decay_steps,
            min_lr_ratio=optimizer.min_lr_ratio,
            weight_decay=optimizer.weight_decay,
            betas=(optimizer.betas[0], optimizer.betas[1]),
            eps=optimizer.eps,
            max_grad_norm=optimizer.max_grad_norm,
            rampup_batch_size=optimizer.rampup_batch_size,
            rampup_steps=optimizer.rampup_steps,
            dtype=dtype,
            init_from=self.init_from,
        )
        _ = recipe.schedule  # refuses what does not fit together
        return recipe

    def _config(self, vocab_size: int, seq_len: int) -> GPTConfig:
        if isinstance(self.model, str):
            return gpt_config(
                self.model, vocab_size=vocab_size, max_position_embeddings=seq_len, banded=self.banded
            )
        if self.banded:
            raise ConfigError(
                "train: banded is for a named size; a shape of your own has it as GPTConfig(banded=True)."
            )
        if self.model.vocab_size < vocab_size:
            raise ConfigError(
                f"train: the store's vocabulary has {vocab_size} ids, the model {self.model.vocab_size}; "
                f"ids above would have no embedding. Give the model at least {vocab_size}."
            )
        if self.model.max_position_embeddings < seq_len:
            raise ConfigError(
                f"train: seq_len {seq_len} is longer than the model's max_position_embeddings "
                f"{self.model.max_position_embeddings}."
            )
        return self.model


def size_of(model: str | GPTConfig) -> Size:
    """Batch and learning rate of a named size; a shape of your own trains like the nearest named one.

    Raises:
        ConfigError: no such name.
    """
    if isinstance(model, str):
        if model not in SIZES:
            raise ConfigError(f"model: no size named {model!r}; there are {', '.join(SIZES)}.")
        return SIZES[model]

    def distance(size: Size) -> float:
        ratio = size.num_hidden_layers * size.hidden_size**2
        return abs(math.log(ratio / (model.num_hidden_layers * model.hidden_size**2)))

    return min(SIZES.values(), key=distance)
