"""What was asked for -> run.json; the same again -> go on; anything else -> an error that says what differs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError, ResumeError
from headrace.model.gpt import GPTConfig
from headrace.model.sizes import SIZES, Size
from headrace.train.optim import Schedule

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
    def schedule(self) -> Schedule:
        """Rate and batch rows by step."""
        return Schedule(
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


def size_of(model: str | GPTConfig) -> Size:
    """Batch and learning rate that the paper gives a named size; a config of one's own trains like the
    named size that is nearest in parameters.
    """
    if isinstance(model, str):
        if model not in SIZES:
            raise ConfigError(f"model: no size named {model!r}; there are {', '.join(SIZES)}.")
        return SIZES[model]

    def distance(size: Size) -> float:
        ratio = size.num_layers * size.width**2 / (model.num_layers * model.width**2)
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
