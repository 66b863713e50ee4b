"""Gradients of matrices -> orthogonal updates: torch.optim.Muon for matrices that ranks hold parts of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from headrace.errors import ConfigError
from headrace.model import sharded_like


class ShardedMuon(torch.optim.Optimizer):
    """Muon whose momentum is held in parts, as the weights are: tensor parallelism and FSDP equal one process.

    Momentum is element by element, so each rank keeps its part. The orthogonalisation needs the whole matrix: its
    parts are gathered, every rank takes torch.optim.Muon's own step on it, and keeps its part of the result.

    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025 (Moonshot) for the scale that lets it share AdamW's rate.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, nesterov: bool = True
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"train: torch {torch.__version__} has no Muon. Install torch 2.9 or later.")
        super().__init__(list(groups), {"lr": 0.0, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the matrices that have a gradient; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            momentum = group["momentum"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                buffer = self.state[parameter]["momentum_buffer"]
                buffer.lerp_(gradient, 1 - momentum)
                update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                whole = orthogonalized(update.full_tensor() if isinstance(update, DTensor) else update)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(sharded_like(parameter, whole), alpha=group["lr"])


def orthogonalized(matrix: Tensor) -> Tensor:
    """The change that torch.optim.Muon makes for a matrix of momentum at rate 1, scaled to AdamW's size of updates."""
    change = torch.zeros_like(matrix).requires_grad_()
    change.grad = matrix
    # Without momentum and decay torch's step is the orthogonalisation alone.
    whole: torch.optim.Optimizer = torch.optim.Muon(
        [change], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, adjust_lr_fn="match_rms_adamw"
    )
    whole.step()
    return change.detach()
