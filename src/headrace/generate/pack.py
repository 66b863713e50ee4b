"""A linear layer and the number of rows it will see -> the same layer, its weights laid out for that.

On a CPU the layout of a weight decides its speed. For one row the product is a read of the weight, and a plain
layer reads with one thread only: the outputs are cut into a block for each thread, and lie side by side in memory
([in, out]) where they are the wider side. For many rows the blocks that oneDNN packs once are faster than packing
at every call, which is what a plain layer does. Elsewhere, and in types that the CPU has no instructions for, a
layer stays as it is.
"""

from __future__ import annotations

import mmap
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor, nn

FEW_ROWS = 2
HUGE_PAGE_BYTES = 2 << 20

# torch's compiler packs weights by these; they have no public name.
_lay_out: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_multiply: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Packed:
    """x -> x @ weight.T + bias, with a layout for so many rows.

    Args:
        weight_OI: [out, in].
        bias_O: [out], or None.
        rows: expected rows of x; others work too.
    """

    __slots__ = ("_bias", "_blocks", "_out", "_threads", "_weight")

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, rows: int) -> None:
        self._out, self._bias, self._weight = weight_OI.shape[0], bias_O, weight_OI
        self._blocks: Tensor | None = None
        self._threads = 0
        if weight_OI.device.type != "cpu":
            return
        if rows <= FEW_ROWS:
            self._threads = P = torch.get_num_threads()
            if rest := -self._out % P:  # a vocabulary is often odd: rows of zeros, cut off again
                weight_OI = F.pad(weight_OI, (0, 0, 0, rest))
                bias_O = None if bias_O is None else F.pad(bias_O, (0, rest))
            self._weight = _laid_out(weight_OI.view(P, -1, weight_OI.shape[1]))
            self._bias = None if bias_O is None else bias_O.view(P, 1, -1)
        elif _lay_out is not None:
            try:
                self._blocks = _lay_out(weight_OI, rows)
                self._weight = torch.empty(0)
            except RuntimeError:  # a type that this CPU has no instructions for
                self._blocks = None

    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        if self._blocks is not None:
            out: Tensor = _multiply(x_NI, self._blocks, self._bias, "none", [], "")
            return out
        if not self._threads:
            return F.linear(x_NI, self._weight, self._bias)
        x_PNI = x_NI.expand(self._threads, *x_NI.shape)
        out_PNo = (
            torch.bmm(x_PNI, self._weight)
            if self._bias is None
            else torch.baddbmm(self._bias, x_PNI, self._weight)
        )
        # The transpose of one row is the row: nothing is copied then.
        out_NO = out_PNo.transpose(0, 1).reshape(len(x_NI), -1)
        return out_NO if out_NO.shape[1] == self._out else out_NO[:, : self._out]

    @classmethod
    def of(cls, *layers: nn.Linear, rows: int, scale_I: Tensor | None = None) -> Packed:
        """Several layers with the same input as one, outputs side by side; the input times scale_I."""
        biases = [layer.bias for layer in layers]
        bias_O = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        weight_OI = torch.cat([layer.weight.detach() for layer in layers])
        return cls(weight_OI if scale_I is None else weight_OI * scale_I, bias_O, rows=rows)


def _laid_out(blocks_POI: Tensor) -> Tensor:
    """[P, out/P, in] -> the same numbers as [P, in, out/P], in the order that is read fastest."""
    P, O, I = blocks_POI.shape  # noqa: E741  # the shape's own letters
    wide = P * O > I
    target = _huge_empty((P, I, O) if wide else (P, O, I), blocks_POI.dtype)
    target.copy_(blocks_POI.mT if wide else blocks_POI)
    return target if wide else target.mT


def _huge_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory in 2 MiB pages where the system has them: a long read is 10 to 40 % faster."""
    count = torch.Size(shape).numel()
    if count * dtype.itemsize < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    pages = -(-count * dtype.itemsize // HUGE_PAGE_BYTES)
    memory = mmap.mmap(-1, pages * HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)
