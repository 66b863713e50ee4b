"""Options, a vocabulary and a number of steps -> the recipe: all that the loss curve depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError
from headrace.model import (
    DECODER_SIZES,
    GPT3_CONTEXT,
    SIZES,
    LoraConfig,
    ModelConfig,
    Size,
    gpt_config,
    meta_lora_model,
)
from headrace.training.lora import DEFAULT_LR, resolve_lora
from headrace.training.lora_options import LoraOptions
from headrace.training.optim import OptimizerSettings, TrainingSchedule
from headrace.training.options import DataOptions, OptimizerOptions

# The paper's: 375 million tokens of warm-up, a cosine over 260 billion.
WARMUP_TOKENS = 375_000_000
DECAY_TOKENS = 260_000_000_000

DEFAULTS: Mapping[str, Any] = {
    "optimizer": "adamw",
    "optimizer_implementation": "auto",
    "momentum": 0.95,
    "lr_schedule": "cosine",
    "min_lr_ratio": 0.1,
    "weight_decay": 0.1,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "max_grad_norm": 1.0,
    "gradient_accumulation_steps": 1,
    "rampup_batch_size": None,
    "rampup_steps": 0,
    "on_divergence": "stop",
    "spike_sigma": 0.0,
    "spike_window": 128,
}
"""Options of a new run that do not depend on its size."""

CHANGEABLE = (
    "steps", "batch_size", "lr", "warmup_steps", "decay_steps", "cooldown_steps",
    *(name for name in DEFAULTS if name != "optimizer"),  # its state is of one kind
)  # fmt: skip
"""Fields that a run may change for its later steps; another value of the others would change its past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that the loss curve depends on, except the layout that the run has."""

    model: ModelConfig
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
    lr_schedule: str
    warmup_steps: int
    decay_steps: int
    cooldown_steps: int
    min_lr_ratio: float
    optimizer: str
    """adamw, or muon: for matrices, with AdamW for the others."""
    optimizer_implementation: str
    momentum: float
    """Muon's."""
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float
    """0: gradients are not clipped."""
    rampup_batch_size: int | None
    rampup_steps: int
    on_divergence: str
    """stop | skip | rollback."""
    spike_sigma: float
    """0: only a loss or gradient that is no number has diverged."""
    spike_window: int
    dtype: str
    """float32 or bfloat16, of matrix products; weights and optimizer are float32."""
    init_from: str | None = None
    """Where the first weights or embeddings came from, with their hash."""
    lora: LoraConfig | None = None
    """None: all weights learn."""

    @property
    def num_trainable_parameters(self) -> int:
        """Parameters that learn."""
        if self.lora is None:
            return self.model.num_parameters
        named = meta_lora_model(self.model, self.lora).parameters()
        return sum(parameter.numel() for parameter in named if parameter.requires_grad)

    @property
    def flops_per_token(self) -> float:
        """Floating point operations of one training token; frozen weights have no gradients to compute."""
        whole = self.model.flops_per_token(self.seq_len)
        if self.lora is None:
            return whole
        return whole - self.model.flops_per_token(0) / 3 + 6.0 * self.num_trainable_parameters

    @property
    def schedule(self) -> TrainingSchedule:
        """Learning rate and rows by step."""
        return TrainingSchedule(
            steps=self.steps,
            lr=self.lr,
            warmup_steps=self.warmup_steps,
            lr_schedule=self.lr_schedule,
            decay_steps=self.decay_steps,
            cooldown_steps=self.cooldown_steps,
            min_lr_ratio=self.min_lr_ratio,
            batch_size=self.batch_size,
            micro_batch_size=self.batch_size // self.gradient_accumulation_steps,
            rampup_batch_size=self.rampup_batch_size,
            rampup_steps=self.rampup_steps,
        )

    @property
    def optimizer_settings(self) -> OptimizerSettings:
        """What the optimizers are made with."""
        names = [field.name for field in dataclasses.fields(OptimizerSettings)]
        return OptimizerSettings(**{name: getattr(self, name) for name in names})

    def to_json(self) -> dict[str, Any]:
        """The recipe as run.json holds it."""
        plain: dict[str, Any] = orjson.loads(orjson.dumps(dataclasses.asdict(self)))
        return plain

    def changeable(self) -> dict[str, Any]:
        """The part that may change between starts."""
        plain = self.to_json()
        return {name: plain[name] for name in CHANGEABLE}

    def with_changes(self, changeable: Mapping[str, Any]) -> Recipe:
        """The same model and data with other values of what may change."""
        values = {**changeable, "betas": tuple(changeable["betas"])}
        return dataclasses.replace(self, **values)


def identity_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a recipe, as JSON, that never changes in a run."""
    return {name: value for name, value in recipe.items() if name not in CHANGEABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRequest:
    """What the caller of train() gave that the loss curve depends on; None: what the run has, or the default."""

    model: str | ModelConfig
    model_name: str
    data: DataOptions
    optimizer: OptimizerOptions
    seed: int | None
    banded: bool
    init_from: str | None
    lora: LoraOptions = dataclasses.field(default_factory=LoraOptions)
    adapter: Path | None = None
    """The adapter that a fresh run begins with."""

    def resolve(
        self,
        *,
        vocab_size: int,
        data_identity: Mapping[str, Any],
        steps: int,
        dtype: str,
        before: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """Fill in what the run has, and the paper's choices.

        Args:
            vocab_size: of the stores' tokenizer.
            data_identity: see `TrainingData.identity`.
            steps: optimizer steps in all.
            dtype: float32 or bfloat16.
            before: the recipe of an earlier start, as JSON.

        Raises:
            ConfigError: options that do not fit together, or not the model.
        """
        size, before = size_of(self.model), before or {}
        of_model = size if isinstance(self.model, str) else self.model
        seq_len = (
            self.data.seq_len or before.get("seq_len") or min(of_model.max_position_embeddings, GPT3_CONTEXT)
        )
        paper_rows = max(1, round(size.batch_tokens / seq_len))
        batch_size = self.data.batch_size or before.get("batch_size") or paper_rows
        model = self._config(vocab_size, seq_len)
        lora = resolve_lora(self.lora, model, before=before.get("lora"), adapter=self.adapter)
        values = self._optimizer(before, size, steps, batch_size * seq_len, by_lora=lora is not None)
        if batch_size % values["gradient_accumulation_steps"]:
            raise ConfigError(
                f"train: batch_size {batch_size} is not divisible by gradient_accumulation_steps "
                f"{values['gradient_accumulation_steps']}."
            )
        recipe = Recipe(
            model=model,
            model_name=self.model_name,
            data=data_identity,
            seq_len=seq_len,
            batch_size=batch_size,
            steps=steps,
            seed=before.get("seed", 0) if self.seed is None else self.seed,
            dtype=dtype,
            init_from=self.init_from,
            lora=lora,
            **values,
        )
        _ = recipe.schedule  # refuses what does not fit together
        return recipe

    def _optimizer(
        self, before: Mapping[str, Any], size: Size, steps: int, tokens: int, *, by_lora: bool
    ) -> dict[str, Any]:
        """Values of the optimizer's options: given, else the run's, else the defaults; `tokens` are of a step."""
        given = self.optimizer
        values = {}
        for name, default in DEFAULTS.items():
            value = getattr(given, name)
            values[name] = before.get(name, default) if value is None else value
        values["betas"] = tuple(values["betas"])
        if given.momentum is not None and values["optimizer"] != "muon":
            raise ConfigError("train: momentum is for optimizer muon; AdamW has betas. Leave it out.")
        schedule = values["lr_schedule"]
        if given.cooldown_steps is not None and schedule != "wsd":
            raise ConfigError(
                f"train: cooldown_steps is for lr_schedule wsd, not {schedule}. Leave it out, or give wsd."
            )
        if given.decay_steps is not None and schedule == "constant":
            raise ConfigError("train: lr_schedule constant has no decay. Leave decay_steps out.")
        decay_steps = steps if schedule != "cosine" else min(-(-DECAY_TOKENS // tokens), steps)
        # A decay that ended with the run ends with it again when the run gets more steps.
        if before and before["decay_steps"] != before["steps"] and before["lr_schedule"] == schedule:
            decay_steps = before["decay_steps"]
        defaults = {
            "lr": DEFAULT_LR if by_lora else size.lr,
            "warmup_steps": min(-(-WARMUP_TOKENS // tokens), max(1, steps // 10)),
            "cooldown_steps": 0,
        }
        for name, default in defaults.items():
            value = getattr(given, name)
            values[name] = before.get(name, default) if value is None else value
        values["cooldown_steps"] = (
            (values["cooldown_steps"] or max(1, steps // 5)) if schedule == "wsd" else 0
        )
        values["decay_steps"] = decay_steps if given.decay_steps is None else given.decay_steps
        return values

    def _config(self, vocab_size: int, seq_len: int) -> ModelConfig:
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


def size_of(model: str | ModelConfig) -> Size:
    """Batch and learning rate of a named size; a shape of your own trains like the nearest named one.

    Raises:
        ConfigError: no such name.
    """
    if isinstance(model, str):
        if model not in SIZES:
            raise ConfigError(
                f"model: no size named {model!r}; there are {', '.join((*SIZES, *DECODER_SIZES))}."
            )
        return SIZES[model]

    def distance(size: Size) -> float:
        ratio = size.num_hidden_layers * size.hidden_size**2
        return abs(math.log(ratio / (model.num_hidden_layers * model.hidden_size**2)))

    return min(SIZES.values(), key=distance)
