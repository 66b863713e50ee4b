"""What `train` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from headrace.native import Target, native_target


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The state of a run when train() returns."""

    out: Path | str
    """Path or URL of the run."""
    steps: int
    """Optimizer steps done, over all starts."""
    total_steps: int
    tokens: int
    """Tokens trained on, over all starts."""
    loss: float | None
    """Of the last step, nats per token; None when nothing was left to do."""
    eval_loss: float | None
    """Held-out loss of the last evaluation, over all starts."""
    parameters: int
    trainable_parameters: int
    """Parameters that learn: fewer with LoRA."""
    tokens_per_s: float
    """Of this start."""
    wall_s: float
    """Of this start."""
    resumed_from: int
    """Step that this start continued from; 0 for a fresh run."""
    mfu: float | None
    """Share of the devices' peak that the last step used; None: hardware that the table does not know."""
    stopped_by: str | None
    """Signal that ended it early, after a checkpoint; None when all steps are done."""
    eval_bits_per_byte: float | None = None
    """The last eval_loss in bits per byte of held-out text."""
    eval_step: int | None = None
    """Step after which `eval_loss` was measured."""
    best_step: int | None = None
    """Step of the lowest held-out loss."""
    stopped_early: bool = False
    """Whether `patience` ended the run."""
    notes: tuple[str, ...] = ()
    """What this start began with or changed, one sentence each."""
    hit_rate: float | None = None
    """Share of the vocabulary that found a vector in `embeddings`; None without."""
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that ran, or "off": Python did the same work."""
