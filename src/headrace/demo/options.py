"""The options of the demo. Its result depends on these and on the text, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from headrace.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Demo."""

    text_field: Annotated[str, Doc("Column or key of the files that holds the text.")] = "text"
    seconds: Annotated[float, Doc("Seconds of training.")] = 120.0
    seed: Annotated[int, Doc("Seed of weights, order and sampling.")] = 0
    steps: int | None = None
    """Optimizer steps instead of seconds."""
    vocab_size: int = 4096
    """Ids of the tokenizer that is trained."""
    model: str = "tiny"
    """Name of the model's size."""
    seq_len: int | None = None
    """Tokens of a row; None: the context of the size."""
    batch_size: int | None = None
    """Rows of a training step; None: that of the size."""
    prompts: int = 64
    """Predictions to make."""
    measure_s: float = 10.0
    """Seconds for which each loader is measured; the only option that does not change the result."""

    def __post_init__(self) -> None:
        """Refuse values that no demo can use."""
        if self.seconds <= 0:
            raise ConfigError(f"seconds: got {self.seconds}, expected more than 0. The default is 120.")
        if self.prompts < 1:
            raise ConfigError(f"prompts: got {self.prompts}, expected at least 1.")
