"""A linear layer -> the same layer, its weight laid out once for this CPU.

A plain layer in torch arranges its weight for the CPU at every call, which costs more than the product where rows are
few; oneDNN's blocks are arranged once, and serve any number of rows. Their memory layout is inspected, so
that the extension in C can read the same copy where one row is decoded. On other devices, and in types that the CPU
has no instructions for, a weight stays [out, in].
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor, nn

# torch's compiler packs weights by these; they have no public name.
_mkldnn: Any = torch.ops.mkldnn
_lay_out: Any = getattr(_mkldnn, "_reorder_linear_weight", None)
_multiply: Any = getattr(_mkldnn, "_linear_pointwise", None)
_num_bytes: Any = getattr(_mkldnn, "_nbytes", None)
FEW_ROWS = 2
"""oneDNN is told how many rows to expect: any number above one gives the same blocks, one gives none."""
BLOCKS = (64, 48, 32, 16)
"""Outputs side by side in a block, as oneDNN chooses by the weight's shape and the number of threads."""

Layout = Literal["rows", "blocks", "unknown"]


class PackedLinear:
    """x -> x @ weight.T + bias.

    Args:
        weight_OI: [out, in].
        bias_O: [out], or None.
    """

    __slots__ = ("_blocks", "address", "bias", "block", "ins", "layout", "outs", "stride", "weight")

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.bias, self._blocks = bias_O, None
        self.weight = weight_OI.contiguous()
        """[out, in]; empty where it was laid out in blocks."""
        self.outs, self.ins = weight_OI.shape
        self.layout: Layout = "rows"
        """Of the memory at `address`: [out, in]; or blocks of some outputs side by side for each input (in types of
        2 bytes for each pair of inputs); or neither."""
        self.block, self.stride = 1, self.ins
        """Outputs of a block, and numbers from one block to the next."""
        if weight_OI.device.type == "cpu" and _lay_out is not None:
            try:
                self._blocks = _lay_out(weight_OI, FEW_ROWS)
            except RuntimeError:  # a type that this CPU has no instructions for
                self._blocks = None
        if self._blocks is not None:
            numbers = _numbers_of(self._blocks, weight_OI.dtype)
            found = [block for block in BLOCKS if _in_blocks(numbers, weight_OI, block)]
            self.layout = "blocks" if found else "unknown"
            if found:
                self.block, self.stride = found[0], len(numbers) // -(-self.outs // found[0])
            self.weight = torch.empty(0)
        self.address: int = self.weight.data_ptr() if self._blocks is None else _mkldnn.data_ptr(self._blocks)
        """Of the weight in memory, for C."""

    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        if self._blocks is None:
            return F.linear(x_NI, self.weight, self.bias)
        out: Tensor = _multiply(x_NI, self._blocks, self.bias, "none", [], "")
        return out

    @classmethod
    def of(cls, *layers: nn.Linear, scale_I: Tensor | None = None) -> PackedLinear:
        """Several layers with the same input as one, outputs side by side; the input times scale_I."""
        biases = [layer.bias for layer in layers]
        bias_O = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        weight_OI = torch.cat([layer.weight.detach() for layer in layers])
        return cls(weight_OI if scale_I is None else weight_OI * scale_I, bias_O)


def _numbers_of(blocks: Any, dtype: torch.dtype) -> Tensor:
    """The memory of a weight in blocks, as a flat tensor without a copy."""
    memory = (ctypes.c_char * _num_bytes(blocks)).from_address(_mkldnn.data_ptr(blocks))
    return torch.frombuffer(memory, dtype=dtype)


def _in_blocks(numbers: Tensor, weight_OI: Tensor, block: int) -> bool:
    """Whether the first and the last block, with this number of outputs each, hold the expected values."""
    outs, ins = weight_OI.shape
    together = 4 // weight_OI.element_size()
    stride, rest = divmod(len(numbers), -(-outs // block))
    if rest or stride % (block * together) or stride < block * ins:
        return False
    bits = torch.int32 if together == 1 else torch.int16  # numbers may be NaN, which equals nothing
    for number in {0, (outs - 1) // block}:
        expected_OI = weight_OI[number * block : (number + 1) * block].contiguous()
        held = numbers[number * stride : (number + 1) * stride].view(-1, block, together)
        got_OI = held.transpose(0, 1).reshape(block, -1)[: len(expected_OI), :ins].contiguous()
        if not torch.equal(got_OI.view(bits), expected_OI.view(bits)):
            return False
    return True
