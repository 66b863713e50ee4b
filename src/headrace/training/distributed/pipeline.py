"""A model and a rank -> its pipeline stages, and the schedule in which microbatches pass through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from headrace.model import GPT, Decoder, Model, attention_masks, linear_cross_entropy
from headrace.training.distributed.model_parallel import local
from headrace.training.options import ParallelOptions


class GPTStage(nn.Module):
    """Some consecutive layers of a GPT; parameters keep the whole model's names.

    The first stage has the tables and takes ids; the last has the token table again (the head is tied)
    and gives the summed loss as [1]; the stages between take and give the residual stream.
    """

    def __init__(self, model: GPT, *, index: int, of: int) -> None:
        super().__init__()
        self.config = model.config
        self.first, self.last = index == 0, index == of - 1
        per_stage = model.config.num_hidden_layers // of
        layers = range(index * per_stage, (index + 1) * per_stage)
        self.blocks = nn.ModuleDict({str(layer): model.blocks[layer] for layer in layers})
        if self.first or self.last:
            self.tok = model.tok
        if self.first:
            self.pos = model.pos
        if self.last:
            self.norm = model.norm

    def forward(
        self,
        x: Tensor,
        *,
        labels_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Ids [B, T] or the stream [B, T, W] -> the stream, or the loss [1]."""
        T = labels_BT.shape[1]  # of the whole row: the stream may be cut by token
        if self.first:
            if positions_BT is None:
                positions_BT = torch.arange(T, device=x.device)[None]
            x = self.tok(x) + self.pos(positions_BT)
        masks = attention_masks(self.config, T, documents_BT, x.device)
        for layer, block in self.blocks.items():
            x = block(x, mask=masks[self.config.is_banded(int(layer))])
        if self.last:
            loss = linear_cross_entropy(self.norm(x), self.tok.weight, labels_BT)
            return torch.stack([loss])  # not a view: FSDP hangs hooks on what comes out
        return x


class PipelineParallel:
    """This rank's stages and the schedule that runs them together with the other ranks'."""

    def __init__(
        self,
        parts: Mapping[int, nn.Module],
        parallel: ParallelOptions,
        mesh: DeviceMesh,
        device: torch.device,
        *,
        tied: bool,
    ) -> None:
        self._parallel = parallel
        self._mesh = mesh["pp"]
        self._device = device
        self._parts = parts
        self.has_first = 0 in parts
        self.has_last = parallel.num_stages - 1 in parts
        self._schedules: dict[int, Any] = {}
        self._ends = _ends_group(mesh) if tied else None

    def run(self, ids_BT: Tensor, labels_BT: Tensor, *, train: bool, **kwargs: Tensor | None) -> Tensor:
        """Summed loss of the rows (zero on ranks without the last stage); gradients are added when training."""
        schedule = self._schedule(ids_BT.shape[0])
        given = {
            name: value for name, value in {"labels_BT": labels_BT, **kwargs}.items() if value is not None
        }
        losses: list[Tensor] = []
        args = (ids_BT,) if self.has_first else ()
        options: dict[str, Any] = {"target": labels_BT, "losses": losses} if self.has_last else {}
        # return_outputs: the loss is read from `losses`; kept outputs would keep activations.
        (schedule.step if train else schedule.eval)(*args, **options, return_outputs=False, **given)
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=self._device)

    def add_tied(self) -> None:
        """Add up the gradients of the token table, which the first and the last stage both have."""
        if self._ends is None:
            return
        for part in self._parts.values():
            tok = getattr(part, "tok", None)
            if tok is not None and tok.weight.grad is not None:
                dist.all_reduce(local(tok.weight.grad), group=self._ends)

    def _schedule(self, rows: int) -> Any:
        if rows not in self._schedules:
            stages = [
                PipelineStage(
                    part, index, self._parallel.num_stages, self._device, group=self._mesh.get_group()
                )
                for index, part in self._parts.items()
            ]
            # The last stage's output is its loss already; sums need no scaling by microbatches.
            options: dict[str, Any] = {"loss_fn": lambda loss, _: loss.sum(), "scale_grads": False}
            microbatches = self._parallel.num_microbatches(rows)
            if self._parallel.pipeline_schedule == "interleaved":
                self._schedules[rows] = ScheduleInterleaved1F1B([*stages], microbatches, **options)
            else:
                kind = Schedule1F1B if self._parallel.pipeline_schedule == "1f1b" else ScheduleGPipe
                self._schedules[rows] = kind(stages[0], microbatches, **options)
        return self._schedules[rows]


def stages_of(model: Model, parallel: ParallelOptions, pipe_rank: int) -> dict[int, nn.Module]:
    """Number -> stage, of one pipeline rank: every pp-th one.

    Args:
        model: without memory; a GPT's blocks become those of its stages.
        parallel: the number of stages.
        pipe_rank: this rank's place in the pipeline.
    """
    numbers = range(pipe_rank, parallel.num_stages, parallel.pp)
    if isinstance(model, GPT):
        return {index: GPTStage(model, index=index, of=parallel.num_stages) for index in numbers}
    per_stage = model.config.num_hidden_layers // parallel.num_stages
    with torch.device("meta"):
        return {
            index: Decoder(model.config, layers=range(index * per_stage, (index + 1) * per_stage))
            for index in numbers
        }


def _ends_group(mesh: DeviceMesh) -> dist.ProcessGroup | None:
    """This rank's group of first and last stage, None for ranks between. All ranks make all groups."""
    mine = None
    ranks = mesh.mesh  # [dp, pp, tp]
    for data in range(ranks.shape[0]):
        for tensor in range(ranks.shape[2]):
            ends = [int(ranks[data, 0, tensor]), int(ranks[data, -1, tensor])]
            group = dist.new_group(ends)
            if dist.get_rank() in ends:
                mine = group
    return mine
