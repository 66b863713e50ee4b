"""A model without memory, options and a mesh -> this process's part of the model, parallel and filled."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from headrace.model import LoraLinear, freeze, init_weights, is_lora_name
from headrace.training.options import ParallelOptions
from headrace.training.recipe import Recipe


def parallelize(
    part: nn.Module,
    recipe: Recipe,
    parallel: ParallelOptions,
    mesh: DeviceMesh | None,
    device: torch.device,
    *,
    initialize: bool = True,
) -> nn.Module:
    """Apply every kind of parallelism to a model, or to one stage of it, that was built without memory.

    The order matters: tensor parallelism cuts matrices, activation checkpointing wraps the blocks,
    compile sees both, FSDP shards the parameters, and only then is memory taken and filled. The values of a
    weight depend on (seed, name) alone, so all layouts start with the same model.

    Args:
        part: a model or a stage of one, on the meta device; changed in place.
        recipe: for the seed and the shape.
        parallel: resolved: dp is known.
        mesh: of these degrees; None for one process.
        device: where the weights go.
        initialize: draw the weights; False where a checkpoint is read into them. Frozen weights are never drawn.

    Returns:
        The module to call: part, or DDP around it.
    """
    if mesh is not None and parallel.tp > 1:
        tensor_parallel(part, mesh["tp"])
    if recipe.lora is not None:  # after the cuts, which make new parameters, and before FSDP and DDP
        freeze(part)
    if parallel.activation_checkpointing:
        checkpoint_activations(part)
    if parallel.compile:
        compile_blocks(part)
    if mesh is not None and parallel.dp > 1 and parallel.shard != "none":
        shard_data_parallel(part, mesh["dp"], keep_weights=parallel.shard == "zero2")
    part.to_empty(device=device)
    if initialize:
        learns = (lambda _: True) if recipe.lora is None else is_lora_name
        init_weights(part, num_layers=recipe.model.num_hidden_layers, seed=recipe.seed, only=learns)
    if mesh is not None and uses_ddp(parallel):
        return DistributedDataParallel(part, process_group=mesh["dp"].get_group())
    return part


def uses_ddp(parallel: ParallelOptions) -> bool:
    """Whether torch's DDP adds up the gradients; it takes whole models of plain tensors only."""
    return parallel.dp > 1 and parallel.shard == "none" and parallel.tp == parallel.pp == 1


def blocks_of(part: nn.Module) -> Mapping[str, nn.Module]:
    """A model's or a stage's blocks, by layer."""
    return dict(part.get_submodule("blocks").named_children())


def tensor_parallel(part: nn.Module, mesh: DeviceMesh) -> None:
    """Cut matrices over ranks; between the matrices each rank holds its part of the tokens (sequence parallelism).

    Source: Shoeybi et al. 2019 (Megatron-LM); Korthikanti et al. 2022 for the sequence dimension.
    """
    # Tables are cut by vocabulary (and by position); their output is cut by token.
    by_row = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    gathered = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
    # An untied head is cut by vocabulary; the loss reads its weight.
    plan: dict[str, ParallelStyle] = {
        "tok": by_row, "pos": by_row, "norm": SequenceParallel(), "head": ColwiseParallel(),
    }  # fmt: skip
    for layer, block in blocks_of(part).items():
        in_block: dict[str, ParallelStyle] = {
            "norm1": SequenceParallel(),
            "attn": gathered,
            **{f"attn.{name}": LoraColwise() for name in ("q", "k", "v")},
            "attn.qkv": LoraColwise(),  # rows are ordered by head: whole heads each
            **{f"attn.{name}": _norm_of_heads(block) for name in ("q_norm", "k_norm")},
            "attn.out": LoraRowwise(output_layouts=Shard(1)),
            "post_norm1": SequenceParallel(use_local_output=True),
            "norm2": SequenceParallel(),
            "mlp": gathered,
            "mlp.gate": LoraColwise(),
            "mlp.up": LoraColwise(),
            "mlp.down": LoraRowwise(output_layouts=Shard(1)),
            "post_norm2": SequenceParallel(use_local_output=True),
        }
        plan |= {f"blocks.{layer}.{name}": style for name, style in in_block.items()}
    here = {name for name, _ in part.named_modules()}  # a pipeline stage has some of them
    parallelize_module(part, mesh, {name: style for name, style in plan.items() if name in here})


class LoraColwise(ColwiseParallel):
    """Linear layers cut by output; of low-rank matrices beside them B is cut like them, and A is whole."""

    def _partition_linear_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        low_rank = _take_low_rank(module)
        super()._partition_linear_fn(name, module, device_mesh)  # type: ignore[no-untyped-call]  # torch's own
        _put_low_rank(module, low_rank, device_mesh, {"lora_A": Replicate(), "lora_B": Shard(0)})


class LoraRowwise(RowwiseParallel):
    """Linear layers cut by input; of low-rank matrices beside them A is cut like them, and B is whole."""

    def _partition_linear_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        low_rank = _take_low_rank(module)
        super()._partition_linear_fn(name, module, device_mesh)  # type: ignore[no-untyped-call]  # torch's own
        _put_low_rank(module, low_rank, device_mesh, {"lora_A": Shard(1), "lora_B": Replicate()})


def _take_low_rank(module: nn.Module) -> dict[str, Tensor]:
    """The low-rank matrices of a layer, removed from it: torch's styles cut every parameter alike."""
    if not isinstance(module, LoraLinear):
        return {}
    taken: dict[str, Tensor] = {name: getattr(module, name) for name in ("lora_A", "lora_B")}
    for name in taken:
        delattr(module, name)
    return taken


def _put_low_rank(
    module: nn.Module, low_rank: Mapping[str, Tensor], mesh: DeviceMesh, placements: Mapping[str, Placement]
) -> None:
    for name, tensor in low_rank.items():
        cut = distribute_tensor(tensor, mesh, [placements[name]])
        module.register_parameter(name, nn.Parameter(cut))


class NormOfHeads(ParallelStyle):
    """The weight of a norm of queries or keys, which each rank has some heads of: cut like them, or shared."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def distribute(_: str, part: nn.Module, mesh: DeviceMesh) -> None:
            for name, parameter in part.named_parameters(recurse=False):
                part.register_parameter(
                    name, nn.Parameter(distribute_tensor(parameter, mesh, [self._placement]))
                )

        return distribute_module(module, device_mesh, distribute)


def _norm_of_heads(block: nn.Module) -> NormOfHeads:
    """Norms over all heads together are cut; those of each head are whole on every rank."""
    over_all_heads = getattr(block.get_submodule("attn"), "qk_norm", None) == "projection"
    return NormOfHeads(Shard(0) if over_all_heads else Replicate())


def checkpoint_activations(part: nn.Module) -> None:
    """Keep the input of each block only; the block is computed again in the backward pass."""
    for block in blocks_of(part).values():
        # The inner forward is replaced: hooks of FSDP stay outside, and parameters keep their names.
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(part: nn.Module) -> None:
    """Compile each block: all have one shape, so there is one compilation."""
    for block in blocks_of(part).values():
        block.forward = torch.compile(block.forward)


def shard_data_parallel(part: nn.Module, mesh: DeviceMesh, *, keep_weights: bool) -> None:
    """FSDP2: gradients and moments sharded; weights too, unless they are kept between forward and backward."""
    for block in blocks_of(part).values():
        fully_shard(block, mesh=mesh, reshard_after_forward=not keep_weights)
    # The tables and the last normalisation are used first and last, so they stay unsharded.
    fully_shard(part, mesh=mesh, reshard_after_forward=False)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, sharing its memory; a plain tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sum_over(group: dist.ProcessGroup, tensors: Sequence[Tensor]) -> None:
    """Sum tensors over a group, in place, by one all-reduce."""
    if tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=group)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def redistribute_gradients(part: nn.Module) -> None:
    """Give gradients the placements of their parameters: DTensor leaves some as partial sums, or whole."""
    for parameter in part.parameters():
        gradient = parameter.grad
        if isinstance(parameter, DTensor) and isinstance(gradient, DTensor):
            parameter.grad = gradient.redistribute(placements=parameter.placements)
