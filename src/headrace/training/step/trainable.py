"""Rows -> gradients, a loss, changed weights: this process's part of an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from headrace.model import add_lora, meta_model, sharded_like
from headrace.training.distributed.model_parallel import (
    local,
    parallelize,
    redistribute_gradients,
    sum_over,
    uses_ddp,
)
from headrace.training.distributed.pipeline import PipelineParallel, stages_of
from headrace.training.optim import clip_factor, make_optimizers, scale_gradients
from headrace.training.options import ParallelOptions
from headrace.training.recipe import Recipe
from headrace.training.step.device import autocast


class TrainableModel:
    """This process's part of the model with its optimizer: the tensors that a checkpoint holds."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        *,
        parallel: ParallelOptions | None = None,
        mesh: DeviceMesh | None = None,
        token_table_VW: Tensor | None = None,
        initialize: bool = True,
    ) -> None:
        """Build, parallelize and fill the model; make the moments at once, so that all saves have one shape.

        Args:
            recipe: shape, seed and optimizer.
            device: of weights and moments.
            parallel: resolved; default one process.
            mesh: of the same degrees; None for one process.
            token_table_VW: the first token embeddings, instead of drawn ones.
            initialize: draw the weights; False where a checkpoint is read into them.
        """
        self.recipe = recipe
        self.device = device
        self.parallel = parallel if parallel is not None else ParallelOptions(dp=1)
        self._replicas: dist.ProcessGroup | None = None
        self._pipeline: PipelineParallel | None = None
        whole = meta_model(recipe.model)
        if mesh is not None and self.parallel.pp > 1:
            stages = stages_of(whole, self.parallel, mesh.get_local_rank("pp"))
            for stage in stages.values():
                self._add_lora(stage)
                parallelize(stage, recipe, self.parallel, mesh, device, initialize=initialize)
            self._parts: list[nn.Module] = list(stages.values())
            self._call: nn.Module | None = None
            self._pipeline = PipelineParallel(
                stages, self.parallel, mesh, device, tied=recipe.model.tie_word_embeddings
            )
        else:
            self._add_lora(whole)
            self._call = parallelize(whole, recipe, self.parallel, mesh, device, initialize=initialize)
            self._parts = [whole]
        by_torch = self.parallel.shard != "none" or uses_ddp(self.parallel)
        if mesh is not None and self.parallel.dp > 1 and not by_torch:
            self._replicas = mesh["dp"].get_group()
        # DDP and FSDP give the mean over dp; the sum is needed.
        self._mean_over = self.parallel.dp if by_torch else 1
        self.counts_loss = (mesh is None or mesh.get_local_rank("tp") == 0) and (
            self._pipeline is None or self._pipeline.has_last
        )
        if token_table_VW is not None and initialize:
            self._fill_tokens(token_table_VW)
        named = [pair for part in self._parts for pair in part.named_parameters()]
        self.named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        """Parameters that learn."""
        self._frozen = [(name, parameter) for name, parameter in named if not parameter.requires_grad]
        self._optimizers = make_optimizers(self.named, recipe.optimizer_settings)

    def _add_lora(self, part: nn.Module) -> None:
        if self.recipe.lora is not None:
            add_lora(part, self.recipe.model, self.recipe.lora)

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
            Their summed loss, scalar; zero on ranks without the last pipeline stage.
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
    def loss(self, ids_BT: Tensor, labels_BT: Tensor, **kwargs: Tensor | None) -> Tensor:
        """Summed loss without gradients, scalar; zero on ranks without the last pipeline stage."""
        ids_BT, labels_BT = ids_BT.to(self.device), labels_BT.to(self.device)
        with autocast(self.recipe.dtype, self.device):
            if self._pipeline is not None:
                return self._pipeline.run(ids_BT, labels_BT, train=False, **kwargs)
            # Not through DDP: it would exchange buffers that an evaluation does not use.
            loss: Tensor = self._parts[0](ids_BT, labels_BT=labels_BT, **kwargs)
            return loss

    @torch.no_grad()
    def finish_gradients(self) -> Tensor:
        """Exchange the gradients that backward did not; returns this rank's share of the squared norm, float64."""
        for part in self._parts:
            redistribute_gradients(part)
        if self._pipeline is not None:
            self._pipeline.add_tied()
        if self._replicas is not None:
            sum_over(self._replicas, [local(p.grad) for _, p in self.named if p.grad is not None])
        squares = []
        for name, parameter in self.named:
            if parameter.grad is not None:
                square = torch.linalg.vector_norm(local(parameter.grad), dtype=torch.float32) ** 2
                squares.append(square / self._copies(name, parameter))
        return torch.stack(squares).double().sum()

    def _copies(self, name: str, parameter: Tensor) -> int:
        """Ranks that hold each element of a parameter: counted once in the norm."""
        ranks = self.parallel.dp * self.parallel.tp
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            for axis, placement in enumerate(parameter.placements):
                # Not is_shard(): it is False for the strided cuts of FSDP over tensor parallel.
                ranks //= 1 if placement.is_replicate() else mesh.size(axis)
        tied = self._pipeline is not None and self.recipe.model.tie_word_embeddings
        return ranks * (2 if tied and name == "tok.weight" else 1)

    def grad_norm(self, *, counted: float, square: float) -> float:
        """Norm of the mean gradient over counted labels; `square` is the sum of all ranks' finish_gradients()."""
        return math.sqrt(square) * self._mean_over / max(1.0, counted)

    def drop_gradients(self) -> None:
        """Leave the weights and moments as they are."""
        for _, parameter in self.named:
            parameter.grad = None

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
        norm = self.grad_norm(counted=counted, square=square)
        gradients = [local(parameter.grad) for _, parameter in self.named if parameter.grad is not None]
        scale_gradients(gradients, scale * clip_factor(norm, self.recipe.max_grad_norm))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        self.drop_gradients()
        return norm

    def use_recipe(self, recipe: Recipe) -> None:
        """Take the next steps with another recipe of the same model and data."""
        self.recipe = recipe
        settings = recipe.optimizer_settings
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            values = {"betas": settings.betas, "eps": settings.eps, "momentum": settings.momentum}
            group |= {name: value for name, value in values.items() if name in group}
            if group["decays"]:
                group["weight_decay"] = settings.weight_decay

    def tensors(self) -> dict[str, Tensor]:
        """What learns, and its moments, by name: model.*, adam.exp_avg.*, adam.exp_avg_sq.*, muon.momentum_buffer.*."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.named:
            named[f"model.{name}"] = parameter.detach()
            for optimizer in self._optimizers:
                moments = optimizer.state.get(parameter, {})
                kind = "muon" if "momentum_buffer" in moments else "adam"
                named |= {f"{kind}.{m}.{name}": tensor for m, tensor in moments.items() if m != "step"}
        return named

    def parameters(self) -> dict[str, Tensor]:
        """This process's part of all weights, by name."""
        return {name: parameter.detach() for name, parameter in [*self.named, *self._frozen]}

    def frozen_tensors(self) -> dict[str, Tensor]:
        """Weights that do not learn, by name: model.*; the run has them once, beside its checkpoints."""
        return {f"model.{name}": parameter.detach() for name, parameter in self._frozen}

    def set_step(self, step: int) -> None:
        """Set the number of updates that the optimizer's moments have seen (for its bias correction)."""
        for moments in (m for optimizer in self._optimizers for m in optimizer.state.values()):
            if "step" in moments:
                moments["step"].fill_(step)
