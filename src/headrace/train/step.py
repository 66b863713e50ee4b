"""One global batch -> gradients, a loss, changed weights: one optimizer step on this process."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.model.loss import IGNORED
from headrace.train.optim import adamw, scale_and_clip
from headrace.train.recipe import Recipe


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """float32 or bfloat16; auto takes bfloat16 where the device multiplies it natively.

    A CPU without AVX512-BF16 or AMX emulates it: measured 12 GFLOP/s against 53 in float32 (AVX2).

    Raises:
        ConfigError: another name.
    """
    names = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp32": "float32", "float32": "float32"}
    if dtype in names:
        return names[dtype]
    if dtype != "auto":
        raise ConfigError(f"train: dtype is {dtype!r}; wanted auto, float32 or bfloat16.")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch has no public name for these yet; a version without them trains in float32.
        checks = (
            getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        native = device.type == "cpu" and any(check() for check in checks if check is not None)
    return "bfloat16" if native else "float32"


def autocast(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in dtype; normalisation, loss and weights stay float32."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))


@dataclass(kw_only=True)
class Learner:
    """A model with its optimizer on one process: what a checkpoint holds beside the loader's position."""

    model: nn.Module
    recipe: Recipe
    device: torch.device
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        """Make the optimizer and its moments at once, so that checkpoints have one shape from the start."""
        self.named = list(self.model.named_parameters())
        self.optimizer = adamw(
            self.named,
            betas=self.recipe.betas,
            eps=self.recipe.eps,
            weight_decay=self.recipe.weight_decay,
        )
        for _, parameter in self.named:
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def forward_backward(
        self,
        ids_BT: Tensor,
        labels_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of the summed loss of some rows; returns (loss sum, labels counted), scalars."""
        ids_BT, labels_BT = ids_BT.to(self.device), labels_BT.to(self.device)
        with autocast(self.recipe.dtype, self.device):
            loss: Tensor = self.model(
                ids_BT, labels_BT=labels_BT, positions_BT=positions_BT, documents_BT=documents_BT
            )
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        return loss.detach(), (labels_BT != IGNORED).sum()

    def update(self, *, lr: float, counted: float) -> Tensor:
        """Scale gradients to the mean over counted labels, clip, step; returns the norm before clipping."""
        gradients = [parameter.grad for _, parameter in self.named if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = scale_and_clip(gradients, norm=norm, scale=1.0 / max(1.0, counted), clip=self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def loss(self, ids_BT: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(Loss sum, labels counted) without gradients."""
        ids_BT, labels_BT = ids_BT.to(self.device), labels_BT.to(self.device)
        with autocast(self.recipe.dtype, self.device):
            return self.model(ids_BT, labels_BT=labels_BT), (labels_BT != IGNORED).sum()

    def tensors(self) -> dict[str, Tensor]:
        """Everything to save, by name: model.*, adam.exp_avg.*, adam.exp_avg_sq.*."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.named:
            named[f"model.{name}"] = parameter.detach()
            for moment in ("exp_avg", "exp_avg_sq"):
                named[f"adam.{moment}.{name}"] = self.optimizer.state[parameter][moment]
        return named

    def set_step(self, step: int) -> None:
        """Tell the optimizer how many updates its moments have seen (for its bias correction)."""
        for _, parameter in self.named:
            self.optimizer.state[parameter]["step"].fill_(step)
