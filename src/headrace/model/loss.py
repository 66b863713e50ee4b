"""Hidden states, token table and labels -> the sum of cross-entropies, without all logits at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

IGNORED = -100  # torch's own mark for a label that is not counted
# Logits alive at once: 16 MB on a CPU (8 % of a step of `tiny` against all at once); on a GPU large products
# pay, and 512 MB are to spare.
_LOGITS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 27}


def linear_cross_entropy(x_BTW: Tensor, table_VW: Tensor, labels_BT: Tensor) -> Tensor:
    """Sum over the counted labels of -log softmax(x @ table.T)[label], in nats, float32 scalar.

    Rows are taken a chunk at a time, and each chunk's gradient is made while its logits are at hand: a
    vocabulary of 50,000 would otherwise need 400 MB of logits per row of 2,048 tokens, twice.
    """
    x_NW, labels_N = x_BTW.flatten(0, 1), labels_BT.flatten()
    loss: Tensor = _ChunkedCrossEntropy.apply(x_NW, table_VW, labels_N)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NW: Tensor, table_VW: Tensor, labels_N: Tensor) -> Tensor:
        wanted = x_NW.requires_grad or table_VW.requires_grad
        at_once = max(1, _LOGITS_AT_ONCE.get(x_NW.device.type, 1 << 27) // table_VW.shape[0])
        loss = x_NW.new_zeros((), dtype=torch.float32)
        grad_x = torch.empty_like(x_NW) if wanted else None
        grad_table = torch.zeros_like(table_VW, dtype=torch.float32) if wanted else None
        for start in range(0, x_NW.shape[0], at_once):
            part = slice(start, start + at_once)
            counted_C = labels_N[part] != IGNORED
            label_C1 = labels_N[part].clamp(min=0)[:, None]
            product = F.linear(x_NW[part], table_VW)
            logits_CV = product.float()
            logits_CV -= logits_CV.amax(1, keepdim=True)
            at_label_C = logits_CV.gather(1, label_C1)[:, 0]
            sum_C1 = logits_CV.exp_().sum(1, keepdim=True)  # the only pass of exp, for loss and gradient
            loss += ((sum_C1[:, 0].log() - at_label_C) * counted_C).sum()
            if grad_x is not None and grad_table is not None:
                logits_CV *= counted_C[:, None] / sum_C1
                logits_CV.scatter_add_(1, label_C1, -counted_C[:, None].float())
                grad_CV = logits_CV.to(product.dtype)
                grad_x[part] = grad_CV @ table_VW.to(product.dtype)
                grad_table += grad_CV.T @ x_NW[part].to(product.dtype)
        if grad_x is not None and grad_table is not None:
            ctx.save_for_backward(grad_x, grad_table.to(table_VW.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_table = ctx.saved_tensors
        return grad_x * grads[0], grad_table * grads[0], None
