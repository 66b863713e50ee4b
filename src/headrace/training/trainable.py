"""Rows -> gradients, a loss, changed weights: what one process does of an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from headrace.errors import ConfigError
from headrace.model.gpt import sharded_like
from headrace.training.layout import Layout
from headrace.training.optim import adamw, clip_factor, scale_gradients
from headrace.training.parallel import add_over, empty_model, local, parallelize, settle_gradients, uses_ddp
from headrace.training.pipeline import PipelineParallel, stages_of
from headrace.training.recipe import Recipe


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


class TrainableModel:
    """This process's part of the model with its optimizer: what a checkpoint holds beside the loader's position."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        *,
        layout: Layout | None = None,
        mesh: DeviceMesh | None = None,
        token_table_VW: Tensor | None = None,
    ) -> None:
        """Build, parallelize and fill the model; make the moments at once, so that saves have one shape."""
        self.recipe = recipe
        self.device = device
        self.layout = layout if layout is not None else Layout(dp=1)
        self._replicas: dist.ProcessGroup | None = None
        self._pipeline: PipelineParallel | None = None
        whole = empty_model(recipe)
        if mesh is not None and self.layout.pp > 1:
            stages = stages_of(whole, self.layout, mesh.get_local_rank("pp"))
            for stage in stages.values():
                parallelize(stage, recipe, self.layout, mesh, device)
            self._parts: list[nn.Module] = list(stages.values())
            self._call: nn.Module | None = None
            self._pipeline = PipelineParallel(stages, self.layout, mesh, device)
        else:
            self._call = parallelize(whole, recipe, self.layout, mesh, device)
            self._parts = [whole]
        by_torch = self.layout.shard != "none" or uses_ddp(self.layout)
        if mesh is not None and self.layout.dp > 1 and not by_torch:
            self._replicas = mesh["dp"].get_group()
        # DDP and FSDP give the mean over dp; what is wanted is the sum.
        self._mean_over = self.layout.dp if by_torch else 1
        self.speaks = (mesh is None or mesh.get_local_rank("tp") == 0) and (
            self._pipeline is None or self._pipeline.has_last
        )
        if token_table_VW is not None:
            self._fill_tokens(token_table_VW)
        self.named = [pair for part in self._parts for pair in part.named_parameters()]
        self.optimizer = adamw(
            self.named, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
        )
        for _, parameter in self.named:
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @torch.no_grad()
    def _fill_tokens(self, table_VW: Tensor) -> None:
        for part in self._parts:
            if isinstance(tok := getattr(part, "tok", None), nn.Embedding):
                tok.weight.copy_(sharded_like(tok.weight, table_VW))

    def forward_backward(
        self, ids_BT: Tensor, labels_BT: Tensor, *, last: bool = True, **kwargs: Tensor | None
    ) -> Tensor:
        """Add the gradients of the summed loss of some rows.

        Args:
            ids_BT: int64 [B, T].
            labels_BT: int64 [B, T].
            last: whether the step's gradients are complete with these rows, and may be exchanged.
            kwargs: positions_BT and documents_BT, where the batch has them.

        Returns:
            Their summed loss, scalar; zero where the last pipeline stage is not.
        """
        ids_BT, labels_BT = ids_BT.to(self.device), labels_BT.to(self.device)
        with autocast(self.recipe.dtype, self.device), self._exchanging(last=last):
            if self._pipeline is not None:
                return self._pipeline.run(ids_BT, labels_BT, train=True, **kwargs)
            assert self._call is not None
            loss: Tensor = self._call(ids_BT, labels_BT=labels_BT, **kwargs)
        with self._exchanging(last=last):
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        return loss.detach()

    @contextmanager
    def _exchanging(self, *, last: bool) -> Iterator[None]:
        if last or not isinstance(self._call, DistributedDataParallel):
            yield
        else:
            with self._call.no_sync():
                yield

    @torch.no_grad()
    def loss(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Summed loss without gradients, scalar; zero where the last pipeline stage is not."""
        ids_BT, labels_BT = ids_BT.to(self.device), labels_BT.to(self.device)
        with autocast(self.recipe.dtype, self.device):
            if self._pipeline is not None:
                return self._pipeline.run(ids_BT, labels_BT, train=False)
            # Not through DDP: it would exchange buffers that an evaluation has no use for.
            found: Tensor = self._parts[0](ids_BT, labels_BT=labels_BT)
            return found

    @torch.no_grad()
    def finish_gradients(self) -> Tensor:
        """Exchange what backward did not; returns this rank's share of the squared norm, scalar float64."""
        for part in self._parts:
            settle_gradients(part)
        if self._pipeline is not None:
            self._pipeline.add_tied()
        if self._replicas is not None:
            add_over(self._replicas, [local(p.grad) for _, p in self.named if p.grad is not None])
        squares = []
        for name, parameter in self.named:
            if parameter.grad is not None:
                square = torch.linalg.vector_norm(local(parameter.grad), dtype=torch.float32) ** 2
                squares.append(square / self._copies(name, parameter))
        return torch.stack(squares).double().sum()

    def _copies(self, name: str, parameter: Tensor) -> int:
        """Ranks that hold each element of a parameter: counted once in the norm."""
        ranks = self.layout.dp * self.layout.tp
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            for axis, placement in enumerate(parameter.placements):
                # Not is_shard(): it is False for the strided cuts of FSDP over tensor parallel.
                ranks //= 1 if placement.is_replicate() else mesh.size(axis)
        return ranks * (2 if self._pipeline is not None and name == "tok.weight" else 1)

    def update(self, *, lr: float, counted: float, square: float) -> float:
        """Scale gradients to the mean over counted labels, clip, step.

        Args:
            lr: learning rate of this step.
            counted: labels counted in this step, over all ranks.
            square: sum of all ranks' finish_gradients().

        Returns:
            Norm of the mean gradient, before clipping.
        """
        scale = self._mean_over / max(1.0, counted)
        norm = math.sqrt(square) * scale
        gradients = [local(parameter.grad) for _, parameter in self.named if parameter.grad is not None]
        scale_gradients(gradients, scale * clip_factor(norm, self.recipe.clip))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

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
