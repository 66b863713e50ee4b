"""A parameter's name and shape, and a seed -> the values that it starts with, whole or the part of a rank."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

INIT_STD = 0.02  # GPT-1, 2 and 3: all weights and embeddings
# torch draws normal numbers in blocks of 16, so a tensor drawn in parts of a multiple of 16 has the same values.
_BLOCK = 16
_PART_ELEMENTS = 1 << 22


@torch.no_grad()
def init_weights(
    model: nn.Module, *, num_layers: int, seed: int, only: Callable[[str], bool] = lambda _: True
) -> None:
    """Set the first weights of a model, or of a part of one; parameters without memory are skipped.

    A module with an attribute `first_value` starts with that weight. Each value depends on (seed, name) and its
    place alone, so a stage or a shard of a model starts with the values that the whole model has there. Of a sharded
    parameter the rank's part alone is kept, and several parameters are drawn at once.

    Args:
        model: see above.
        num_layers: of the whole model.
        seed: see above.
        only: whether a parameter of this name is set.
    """

    def fill(item: tuple[str, nn.Parameter]) -> None:
        name, parameter = item
        with torch.no_grad():  # a thread has a switch of its own
            _fill(parameter, name, constants.get(name), num_layers=num_layers, seed=seed)

    constants = {
        f"{prefix}.weight" if prefix else "weight": float(module.first_value)
        for prefix, module in model.named_modules()
        if isinstance(getattr(module, "first_value", None), float)
    }
    items = [item for item in model.named_parameters() if not item[1].is_meta and only(item[0])]
    threads = torch.get_num_threads()
    if threads == 1 or sum(parameter.numel() for _, parameter in items) < _PART_ELEMENTS:
        for item in items:
            fill(item)
        return
    # The largest first, so that none is left for the end.
    items.sort(key=lambda item: -item[1].numel())
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, items))


def fresh_weight(name: str, shape: tuple[int, ...], *, num_layers: int, seed: int) -> Tensor:
    """The paper's initialisation: N(0, 0.02), zero biases, residual layers scaled by 1/sqrt(2 L)."""
    constant = _constant(name)
    if constant is not None:
        return torch.full(tuple(shape), constant)
    return _random(name, tuple(shape), num_layers=num_layers, seed=seed)(torch.empty(tuple(shape)))


def sharded_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, cut as a parameter is: every rank has the whole, so nothing is sent."""
    if not isinstance(parameter, DTensor):
        return whole
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _constant(name: str) -> float | None:
    if name.endswith(("bias", ".lora_B")):
        return 0.0
    return 1.0 if "norm" in name else None


def _random(name: str, shape: tuple[int, ...], *, num_layers: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A function that fills tensors, one after the other, with the next values of a parameter's stream."""
    if not name.endswith(".lora_A"):
        return _normal(name, num_layers=num_layers, seed=seed)
    # As peft: He et al. 2015, uniform, with a slope of sqrt(5).
    bound, generator = 1 / math.sqrt(shape[1]), _generator(name, seed)
    return lambda tensor: tensor.uniform_(-bound, bound, generator=generator)


def _normal(name: str, *, num_layers: int, seed: int) -> Callable[[Tensor], Tensor]:
    residual = name.endswith(("attn.out.weight", "mlp.down.weight"))
    std, generator = INIT_STD / math.sqrt(2 * num_layers) if residual else INIT_STD, _generator(name, seed)
    return lambda tensor: tensor.normal_(0.0, std, generator=generator)


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    # 63 bits: torch takes the seed as a signed integer.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _fill(parameter: Tensor, name: str, constant: float | None, *, num_layers: int, seed: int) -> None:
    constant = _constant(name) if constant is None else constant
    if constant is not None:
        (parameter.to_local() if isinstance(parameter, DTensor) else parameter).fill_(constant)
        return
    draw = _random(name, tuple(parameter.shape), num_layers=num_layers, seed=seed)
    if isinstance(parameter, DTensor):
        if parameter.ndim != 2 or any(type(p) not in {Shard, Replicate} for p in parameter.placements):
            parameter.copy_(sharded_like(parameter, draw(torch.empty(tuple(parameter.shape)))))
            return
        shape, offset = compute_local_shape_and_global_offset(
            parameter.shape, parameter.device_mesh, parameter.placements
        )
        _fill_part(parameter.to_local(), tuple(parameter.shape), tuple(shape), tuple(offset), draw)
    elif parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.is_contiguous():
        draw(parameter)
    else:
        parameter.copy_(draw(torch.empty(tuple(parameter.shape))))


def _fill_part(
    local: Tensor,
    whole: tuple[int, ...],
    shape: tuple[int, ...],
    offset: tuple[int, ...],
    draw: Callable[[Tensor], Tensor],
) -> None:
    """Fill one rectangle of a matrix; the rows before it are drawn and dropped, those behind it are not drawn."""
    if 0 in shape:
        return
    rows, columns = whole
    block = _BLOCK // math.gcd(_BLOCK, columns)  # rows whose elements are a multiple of torch's block
    step = block * max(1, _PART_ELEMENTS // (block * columns))
    first, last = offset[0], offset[0] + shape[0]
    enough = math.ceil(last / block) * block
    kept_columns = slice(offset[1], offset[1] + shape[1])
    start = 0
    while start < last:
        stop = min(rows, start + step, enough)
        if (rows - stop) * columns < _BLOCK:  # the last block is drawn with those before it
            stop = rows
        part = draw(torch.empty(stop - start, columns))
        begin, end = max(first, start), min(last, stop)
        if begin < end:
            local[begin - first : end - first] = part[begin - start : end - start, kept_columns]
        start = stop
