"""Step, parameters and gradients -> AdamW as the GPT-3 paper ran it: rate, decay, clipping, batch ramp."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSchedule:
    """Learning rate and batch rows as pure functions of the step, so that a resumed run has no state here.

    >>> plan = TrainingSchedule(steps=100, peak_lr=1.0, warmup_steps=10, batch_rows=8, unit_rows=2)
    >>> plan.lr(1), plan.lr(10), round(plan.lr(100), 6)
    (0.1, 1.0, 0.1)
    """

    steps: int
    peak_lr: float
    warmup_steps: int
    decay_steps: int | None = None
    """Step at which the cosine reaches its floor; default the last one. The floor holds afterwards."""
    floor: float = 0.1
    """Share of the peak that the cosine ends at."""
    batch_rows: int
    """Global rows of a step after the ramp."""
    unit_rows: int
    """Global rows fetched at once; a step takes a whole number of units."""
    ramp_from: int | None = None
    """Global rows of the first step; None: no ramp."""
    ramp_steps: int = 0
    """Steps until batch_rows is reached, linearly."""

    def __post_init__(self) -> None:
        """Refuse schedules that do not fit together."""
        if self.batch_rows % self.unit_rows:
            raise ConfigError(
                f"train: batch size {self.batch_rows} is not divisible into units of {self.unit_rows} rows."
            )
        if self.ramp_from is not None and (
            self.ramp_from % self.unit_rows or not 0 < self.ramp_from <= self.batch_rows
        ):
            raise ConfigError(
                f"train: ramp_from is {self.ramp_from}; wanted a multiple of {self.unit_rows} (batch size / "
                f"accumulate) between {self.unit_rows} and {self.batch_rows}."
            )

    def lr(self, step: int) -> float:
        """Learning rate of a step (the first is 1): linear warm-up, then a cosine down to the floor."""
        if step <= self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        end = self.steps if self.decay_steps is None else self.decay_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, end - self.warmup_steps))
        return self.peak_lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))

    def units(self, step: int) -> int:
        """Units of unit_rows rows that a step takes (the first step is 1)."""
        if self.ramp_from is None or step > self.ramp_steps:
            return self.batch_rows // self.unit_rows
        rows = self.ramp_from + (self.batch_rows - self.ramp_from) * (step - 1) / max(1, self.ramp_steps)
        return max(1, int(rows / self.unit_rows))


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """AdamW with decay on matrices only: biases and normalisation gains are left alone.

    The learning rate is set at every step (see TrainingSchedule). Fused where the device has it.
    """
    parameters = [parameter for _, parameter in named_parameters]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = bool(parameters) and parameters[0].device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=betas, eps=eps, fused=fused
    )


def clip_factor(norm: float, clip: float | None) -> float:
    """What to multiply gradients of a norm by so that it is at most clip; None leaves them.

    >>> clip_factor(4.0, 1.0), clip_factor(0.5, 1.0), clip_factor(4.0, None)
    (0.25, 1.0, 1.0)
    """
    return 1.0 if clip is None or norm <= clip else clip / norm


@torch.no_grad()
def scale_gradients(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiply gradients in place."""
    torch._foreach_mul_(list(gradients), factor)
