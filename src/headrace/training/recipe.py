"""What was asked for -> run.json; the same again goes on; anything else is refused by name."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError, ResumeError
from headrace.model.gpt import GPTConfig
from headrace.model.sizes import SIZES, Size, gpt_config
from headrace.training.optim import TrainingSchedule

RUN = "run.json"
FORMAT = 1
# The paper's: 375 million tokens of warm-up, a cosine over 260 billion.
WARMUP_TOKENS = 375_000_000
DECAY_TOKENS = 260_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that the loss curve depends on, but for the layout it runs on."""

    model: GPTConfig
    model_name: str
    data: Mapping[str, Any]
    """What the rows are made of: fingerprints of stores and tokenizer, weights, loader options."""
    seq_len: int
    batch_size: int
    """Global rows of an optimizer step."""
    accumulate: int
    """Pieces that a step's rows are fetched and run in."""
    steps: int
    seed: int
    lr: float
    warmup_steps: int
    decay_steps: int
    floor: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float | None
    ramp_from: int | None
    ramp_steps: int
    dtype: str
    """float32 | bfloat16: what matrix products run in; weights and optimizer are float32."""
    init_from: str | None = None
    """Where the first weights or embeddings came from, with its hash."""

    @property
    def schedule(self) -> TrainingSchedule:
        """Rate and batch rows by step."""
        return TrainingSchedule(
            steps=self.steps,
            peak_lr=self.lr,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
            floor=self.floor,
            batch_rows=self.batch_size,
            unit_rows=self.batch_size // self.accumulate,
            ramp_from=self.ramp_from,
            ramp_steps=self.ramp_steps,
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return orjson.loads(orjson.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Recipe:
        """Back from run.json."""
        return cls(**{**found, "model": GPTConfig(**found["model"]), "betas": tuple(found["betas"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRequest:
    """What the caller of train() gave that the loss curve depends on; None: the paper's choice."""

    model: str | GPTConfig
    seq_len: int | None
    batch_size: int | None
    accumulate: int
    seed: int
    lr: float | None
    warmup_steps: int | None
    decay_steps: int | None
    floor: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float | None
    ramp_from: int | None
    ramp_steps: int
    banded: bool
    init_from: str | None

    def resolve(self, *, vocab_size: int, data: Mapping[str, Any], steps: int, dtype: str) -> Recipe:
        """Fill in the paper's choices.

        Raises:
            ConfigError: options that make no sense, alone or together.
        """
        size = size_of(self.model)
        context = (
            size.max_position_embeddings
            if isinstance(self.model, str)
            else self.model.max_position_embeddings
        )
        seq_len = context if self.seq_len is None else self.seq_len
        batch_size = max(
            1, round(size.batch_tokens / max(1, seq_len)) if self.batch_size is None else self.batch_size
        )
        for name, value in (
            ("seq_len", seq_len),
            ("batch_size", self.batch_size),
            ("steps", steps),
            ("accumulate", self.accumulate),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"train: {name} is {value}; it must be at least 1.")
        self._refuse_out_of_range()
        if batch_size % self.accumulate:
            raise ConfigError(
                f"train: batch_size {batch_size} is not divisible by accumulate {self.accumulate}."
            )
        tokens = batch_size * seq_len
        recipe = Recipe(
            model=self._config(vocab_size, seq_len),
            model_name=self.model if isinstance(self.model, str) else "custom",
            data=data,
            seq_len=seq_len,
            batch_size=batch_size,
            accumulate=self.accumulate,
            steps=steps,
            seed=self.seed,
            lr=size.lr if self.lr is None else self.lr,
            warmup_steps=min(-(-WARMUP_TOKENS // tokens), max(1, steps // 10))
            if self.warmup_steps is None
            else self.warmup_steps,
            decay_steps=min(-(-DECAY_TOKENS // tokens), steps)
            if self.decay_steps is None
            else self.decay_steps,
            floor=self.floor,
            weight_decay=self.weight_decay,
            betas=self.betas,
            eps=self.eps,
            clip=self.clip,
            ramp_from=self.ramp_from,
            ramp_steps=self.ramp_steps,
            dtype=dtype,
            init_from=self.init_from,
        )
        _ = recipe.schedule  # refuses what does not fit together
        return recipe

    def _refuse_out_of_range(self) -> None:
        """What cannot be wanted, by name: none of these would fail by itself, or only after hours."""
        ranges: list[tuple[str, float | None, float, float]] = [
            ("seed", self.seed, -(2**63), 2**63 - 1),
            ("lr", self.lr, 0, math.inf),
            ("warmup_steps", self.warmup_steps, 0, math.inf),
            ("decay_steps", self.decay_steps, 1, math.inf),
            ("floor", self.floor, 0, 1),
            ("weight_decay", self.weight_decay, 0, math.inf),
            ("eps", self.eps, 0, math.inf),
            ("clip", self.clip, 0, math.inf),
            ("ramp_steps", self.ramp_steps, 0, math.inf),
            *((f"betas[{i}]", beta, 0, 1) for i, beta in enumerate(self.betas)),
        ]
        for name, value, low, high in ranges:
            if value is not None and not low <= value <= high:  # not a number is in no range
                wanted = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ConfigError(f"train: {name} is {value}; wanted {wanted}.")

    def _config(self, vocab_size: int, seq_len: int) -> GPTConfig:
        if isinstance(self.model, str):
            return gpt_config(
                self.model, vocab_size=vocab_size, max_position_embeddings=seq_len, banded=self.banded
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
    """Batch and learning rate of a named size; a shape of one's own trains like the nearest named one.

    Raises:
        ConfigError: no such name.
    """
    if isinstance(model, str):
        if model not in SIZES:
            raise ConfigError(f"model: no size named {model!r}; there are {', '.join(SIZES)}.")
        return SIZES[model]

    def distance(size: Size) -> float:
        mine = model.num_hidden_layers * model.hidden_size**2
        ratio = size.num_hidden_layers * size.hidden_size**2 / mine
        return max(ratio, 1 / ratio)

    return min(SIZES.values(), key=distance)


def read_run(out: Path) -> dict[str, Any] | None:
    """run.json of a run directory, None where there is none.

    Raises:
        ResumeError: there is one that cannot be read.
    """
    path = out / RUN
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ResumeError(f"{path}: not JSON ({error}). Give another directory with --out.") from error
    if found.get("format") != FORMAT:
        raise ResumeError(f"{path}: run format {found.get('format')}, this headrace reads {FORMAT}.")
    return found


def write_run(out: Path, run: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    staging = out / f".{RUN}.tmp"
    with staging.open("wb") as file:
        file.write(orjson.dumps({"format": FORMAT, **run}, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    staging.rename(out / RUN)


def refuse_other(out: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Compare what the run was started with to what is asked for now.

    Raises:
        ResumeError: every key that differs, with both values.
    """
    was, now = _flat(found), _flat(asked)
    differ = [
        f"{key}: run has {was.get(key, 'nothing')!r}, asked for {now.get(key, 'nothing')!r}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]
    if differ:
        raise ResumeError(
            f"{out}: holds another run: {'; '.join(differ)}. "
            f"Give the same options to continue it, or another directory with --out."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
