"""A linear layer and the number of rows it will see -> the same layer, its weights laid out for that.

A plain layer in torch arranges its weight for the CPU at every call, which costs more than the product where rows are
few; oneDNN's blocks are arranged once, and serve any number of rows. Where one row is decoded by onerow.c, weights
stay [out, in], which it reads from one end to the other. On other devices, and in types that the CPU has no
instructions for, a layer stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor, nn

from headrace.generate.onerow import HugePages

# torch's compiler packs weights by these; they have no public name.
_lay_out: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_multiply: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Packed:
    """x -> x @ weight.T + bias, with a layout for so many rows.

    Args:
        weight_OI: [out, in].
        bias_O: [out], or None.
        rows: expected rows of x; others work too.
        pages: keep the weight [out, in] and hold it here, for onerow.c.
    """

    __slots__ = ("_blocks", "bias", "weight")

    def __init__(
        self,
        weight_OI: Tensor,
        bias_O: Tensor | None = None,
        *,
        rows: int,
        pages: HugePages | None = None,
    ) -> None:
        self.bias, self._blocks = bias_O, None
        self.weight = weight_OI if pages is None else pages.hold(weight_OI)
        """[out, in]; empty where it was laid out in blocks."""
        if pages is None and weight_OI.device.type == "cpu" and _lay_out is not None:
            try:
                self._blocks = _lay_out(weight_OI, rows)
                self.weight = torch.empty(0)
            except RuntimeError:  # a type that this CPU has no instructions for
                self._blocks = None

    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        if self._blocks is None:
            return F.linear(x_NI, self.weight, self.bias)
        out: Tensor = _multiply(x_NI, self._blocks, self.bias, "none", [], "")
        return out

    @classmethod
    def of(
        cls,
        *layers: nn.Linear,
        rows: int,
        scale_I: Tensor | None = None,
        pages: HugePages | None = None,
    ) -> Packed:
        """Several layers with the same input as one, outputs side by side; the input times scale_I."""
        biases = [layer.bias for layer in layers]
        bias_O = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        weight_OI = torch.cat([layer.weight.detach() for layer in layers])
        return cls(weight_OI if scale_I is None else weight_OI * scale_I, bias_O, rows=rows, pages=pages)
