"""Matrices -> their product, and modules of one matrix.

Products in float32 run by oneDNN on CPUs where torch's own library uses half of the CPU. Shapes: M x K times K x N.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headrace.platform import cpu_vendor


@functools.cache
def mkl_is_slow() -> bool:
    """Whether torch's float32 products (MKL) use AVX2 though the CPU has AVX-512, as on AMD's CPUs.

    Measured on 2 Zen 5 cores, 2048 x 384 times 384 x 1536: MKL 218 GFLOP/s, oneDNN 477, both in float32.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    return cpu_vendor() == "AuthenticAMD"


def product(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """The product a @ b, not differentiable; float32 sums in another order than torch's, equally exact."""
    if a_MK.dtype == torch.float32 and a_MK.device.type == "cpu" and mkl_is_slow():
        return _onednn(a_MK, b_KN.T, None)
    return a_MK @ b_KN


class Linear(nn.Linear):
    """nn.Linear, whose training in float32 runs on oneDNN where that is faster; the model sets its first weights."""

    def reset_parameters(self) -> None:
        """Nothing: `init_weights` sets them, or they are read."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        plain = not isinstance(self.weight, DTensor) and not torch.compiler.is_compiling()
        products_alone = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled(
            "cpu"
        )
        # Without gradients the rows may be few: a step of generation is bound by memory, not by arithmetic.
        if plain and products_alone and torch.is_grad_enabled() and x.device.type == "cpu" and mkl_is_slow():
            return _linear(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], -1)
        return super().forward(x)


class Embedding(nn.Embedding):
    """nn.Embedding whose first weights the model sets.

    torch's own draw them first, to be overwritten; without memory they even import its compiler (1.5 s of CPU time).
    """

    def reset_parameters(self) -> None:
        """Nothing: `init_weights` sets them, or they are read."""


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_MK if ctx.needs_input_grad[1] else None, weight_NK)
        ctx.has_bias = bias_N is not None
        return _onednn(x_MK, weight_NK, bias_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_MK, weight_NK = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad  # frozen weights have none
        bias_N = grads[0].sum(0) if ctx.has_bias and of_bias else None
        x = product(grads[0], weight_NK) if of_x else None
        return x, product(grads[0].T, x_MK) if of_weight else None, bias_N


_linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _Linear.apply


def _onednn(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    # The operator that torch's compiler emits for frozen weights; torch has no public name for it.
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, bias_N, "none", [], "")  # noqa: SLF001
    return out
