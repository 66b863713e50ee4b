"""A model in parts over the ranks -> the whole model in rank 0, to generate with; low-rank matrices are merged."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from headrace.model import Model, is_lora_name, merge_lora, meta_lora_model, meta_model
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.step.trainable import TrainableModel


@torch.no_grad()
def whole_model(model: TrainableModel, group: ProcessGroup) -> Model | None:
    """The model of one process, on rank 0's device; None on the other ranks. Every rank calls.

    Memory of whole tensors is shared with the model where that is possible: use it before the next step, and do not
    change it.
    """
    config, lora = model.recipe.model, model.recipe.lora
    held = model.parameters()
    expected = dict(meta_lora_model(config, lora).named_parameters())
    holds = group.gather([float(name in held) for name in expected])
    owners = holds.argmax(0).tolist()  # the first rank that has it: of a pipeline's stages, each has its own
    whole: dict[str, Tensor] = {}
    for (name, like), owner in zip(expected.items(), owners, strict=True):
        tensor = held.get(name)
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if owner and group.rank == owner:
            assert tensor is not None
            dist.send(tensor.cpu().contiguous(), 0, group=group.collectives)
        elif owner and group.is_rank0:
            received = torch.empty(like.shape)
            dist.recv(received, owner, group=group.collectives)
            tensor = received.to(model.device)
        if group.is_rank0:
            assert tensor is not None
            whole[name] = tensor.detach()
    if not group.is_rank0:
        return None
    low_rank = {name: whole.pop(name) for name in list(whole) if is_lora_name(name)}
    for name in low_rank:
        if name.endswith(".lora_A"):  # merged in place below: not into the weights that are trained
            weight = name.removesuffix("lora_A") + "weight"
            whole[weight] = whole[weight].clone()
    made = meta_model(config).to_empty(device=model.device)
    for name, parameter in made.named_parameters():
        parameter.data = whole[name]
    if lora is not None:
        merge_lora(made, low_rank, lora.scaling)
    return made.eval()
