"""Step, parameters and gradients -> rate, rows, optimizers and their parameter groups, clipping."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.training.muon import ShardedMuon


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSchedule:
    """Learning rate and rows as pure functions of the step, so that a resumed run has no state here.

    >>> plan = TrainingSchedule(steps=100, lr=1.0, warmup_steps=10, batch_size=8, micro_batch_size=2)
    >>> plan.lr_at(1), plan.lr_at(10), round(plan.lr_at(100), 6)
    (0.1, 1.0, 0.1)
    """

    steps: int
    lr: float
    """The peak."""
    warmup_steps: int
    lr_schedule: str = "cosine"
    """cosine | linear | constant | wsd (warm-up, stable, decay)."""
    decay_steps: int | None = None
    """Step at which the decay ends; default the last one. The rate stays there afterwards."""
    cooldown_steps: int = 0
    """Steps of wsd's decay, which end at decay_steps."""
    min_lr_ratio: float = 0.1
    """Share of the peak at which the decay ends."""
    batch_size: int
    """Rows of a step after the ramp-up, over all ranks."""
    micro_batch_size: int
    """Rows fetched and computed at once, over all ranks; a step takes a whole number of micro-batches."""
    rampup_batch_size: int | None = None
    """Rows of the first step; None: no ramp-up."""
    rampup_steps: int = 0
    """Steps until batch_size is reached, linearly."""

    def __post_init__(self) -> None:
        """Refuse numbers of rows that do not fit together."""
        if self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"train: batch_size {self.batch_size} is not divisible into micro-batches of "
                f"{self.micro_batch_size} rows."
            )
        if self.rampup_batch_size is not None and (
            self.rampup_batch_size % self.micro_batch_size
            or not 0 < self.rampup_batch_size <= self.batch_size
        ):
            raise ConfigError(
                f"train: rampup_batch_size is {self.rampup_batch_size}; expected a multiple of "
                f"{self.micro_batch_size} (batch_size / gradient_accumulation_steps) from "
                f"{self.micro_batch_size} to {self.batch_size}."
            )

    def lr_at(self, step: int) -> float:
        """Learning rate of a step (the first is 1): linear warm-up, then the schedule.

        Source of wsd: Hu et al. 2024 (MiniCPM), section 4; its decay is linear here, as in Haegele et al. 2024.
        """
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        if self.lr_schedule == "constant":
            return self.lr
        end = self.steps if self.decay_steps is None else self.decay_steps
        begin = self.warmup_steps
        if self.lr_schedule == "wsd":
            begin = max(begin, end - self.cooldown_steps)
        done = min(1.0, max(0, step - begin) / max(1, end - begin))
        low = self.min_lr_ratio
        left = 0.5 * (1 + math.cos(math.pi * done)) if self.lr_schedule == "cosine" else 1 - done
        return self.lr * (low + (1 - low) * left)

    def micro_batches_at(self, step: int) -> int:
        """Micro-batches that a step takes (the first step is 1)."""
        if self.rampup_batch_size is None or step > self.rampup_steps:
            return self.batch_size // self.micro_batch_size
        growth = (self.batch_size - self.rampup_batch_size) * (step - 1) / max(1, self.rampup_steps)
        return max(1, int((self.rampup_batch_size + growth) / self.micro_batch_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Which optimizers take which parameters, and how."""

    optimizer: str = "adamw"
    """adamw | muon: matrices by Muon; embeddings, head, biases and norms by AdamW."""
    optimizer_implementation: str = "auto"
    """auto: fused where the device has it | fused | foreach."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.1


_TABLES = ("tok", "pos", "head")
"""Modules whose matrices are looked up or give logits: Muon is not for them."""


def group_parameters(
    named_parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and normalisation gains do not; each says its optimizer."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        decays = parameter.ndim >= 2
        by_muon = settings.optimizer == "muon" and parameter.ndim == 2 and name.split(".")[0] not in _TABLES
        key = ("muon" if by_muon else "adamw", decays)
        weight_decay = settings.weight_decay if decays else 0.0
        new = {"optimizer": key[0], "params": [], "names": [], "weight_decay": weight_decay, "decays": decays}
        group = groups.setdefault(key, new)
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1]))]


def describe_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Parameter groups for run.json: optimizer, decay, number of parameters, names with layers as a star."""
    return [
        {
            "optimizer": group["optimizer"],
            "weight_decay": group["weight_decay"],
            "parameters": sum(parameter.numel() for parameter in group["params"]),
            "names": list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in group["names"])),
        }
        for group in group_parameters(named_parameters, settings)
    ]


def make_optimizers(
    named_parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> list[torch.optim.Optimizer]:
    """The optimizers of the groups, with all moments made; the learning rate is set at every step."""
    groups = group_parameters(named_parameters, settings)
    optimizers: list[torch.optim.Optimizer] = []
    of_adamw = [group for group in groups if group["optimizer"] == "adamw"]
    of_muon = [group for group in groups if group["optimizer"] == "muon"]
    if of_adamw:
        optimizers.append(_adamw(of_adamw, settings))
    if of_muon:
        muon = ShardedMuon(of_muon, momentum=settings.momentum)
        for parameter in (parameter for group in of_muon for parameter in group["params"]):
            muon.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
        optimizers.append(muon)
    return optimizers


def _adamw(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.AdamW:
    parameters = [parameter for group in groups for parameter in group["params"]]
    device = parameters[0].device
    has_fused = device.type in {"cpu", "cuda"}
    chosen = settings.optimizer_implementation
    if chosen == "auto":
        chosen = "fused" if has_fused else "foreach"
    optimizer = torch.optim.AdamW(
        groups,
        lr=0.0,
        betas=settings.betas,
        eps=settings.eps,
        fused=chosen == "fused",
        foreach=chosen == "foreach",
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            # torch's foreach path keeps it on the CPU, the fused one on the device.
            "step": torch.zeros((), dtype=torch.float32, device=device if chosen == "fused" else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def clip_factor(norm: float, max_norm: float) -> float:
    """Factor that brings gradients of this norm to at most max_norm; 0 clips nothing.

    >>> clip_factor(4.0, 1.0), clip_factor(0.5, 1.0), clip_factor(4.0, 0.0)
    (0.25, 1.0, 1.0)
    """
    return 1.0 if max_norm == 0 or norm <= max_norm else max_norm / norm


@torch.no_grad()
def scale_gradients(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiply gradients in place."""
    torch._foreach_mul_(list(gradients), factor)
