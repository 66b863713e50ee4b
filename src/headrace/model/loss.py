"""Hidden states, token table and labels -> the sum of cross-entropies, without all logits at once.

Shapes: N = B x T tokens, C of them in a chunk, V vocabulary (this rank's part of it), W width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from headrace.model.products import product

IGNORED = -100  # torch's own value of a label that is not counted
# Logits in memory at once, in the dtype of the products. Each chunk passes once over the table's gradient, so
# chunks are large.
_LOGITS_AT_ONCE = {"cpu": 1 << 26, "cuda": 1 << 27}
# Logits that softmax passes over at once in float32. On a CPU they stay in its cache: 4 MB.
_LOGITS_IN_CACHE = {"cpu": 1 << 20}


def linear_cross_entropy(
    x_BTW: Tensor, table_VW: Tensor, labels_BT: Tensor, *, softcap: float | None = None
) -> Tensor:
    """Sum over the counted labels of -log softmax(x @ table.T)[label], in nats, float32 scalar.

    With a softcap the logits are softcap * tanh(logits / softcap).

    Rows are taken a chunk at a time, and each chunk's gradient is written over its logits: a vocabulary
    of 50,000 would otherwise need 400 MB of logits per row of 2,048 tokens, twice.

    A table that is a DTensor is cut by vocabulary: each rank computes the logits of its part, and three
    numbers per token (largest, sum, label's) are exchanged instead of logits. Then x is this rank's part
    of the tokens (sequence parallel) and the result is the same on every rank of the mesh.
    """
    labels_N = labels_BT.flatten()
    if not isinstance(table_VW, DTensor):
        return _chunked(x_BTW.flatten(0, 1), table_VW, labels_N, 0, None, softcap)
    mesh = table_VW.device_mesh
    part = x_BTW if isinstance(x_BTW, DTensor) else DTensor.from_local(x_BTW, mesh, [Shard(1)])
    # Each rank's gradient is of its part of the vocabulary: a partial sum.
    whole = part.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
    first = mesh.get_local_rank() * -(-table_VW.shape[0] // mesh.size())
    return _chunked(whole.flatten(0, 1), table_VW.to_local(), labels_N, first, mesh.get_group(), softcap)


def _chunked(
    x_NW: Tensor,
    table_VW: Tensor,
    labels_N: Tensor,
    first: int,
    group: dist.ProcessGroup | None,
    softcap: float | None,
) -> Tensor:
    loss: Tensor = _ChunkedCrossEntropy.apply(x_NW, table_VW, labels_N, first, group, softcap)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NW: Tensor,
        table_VW: Tensor,
        labels_N: Tensor,
        first: int,
        group: dist.ProcessGroup | None,
        softcap: float | None,
    ) -> Tensor:
        needs_gradients = x_NW.requires_grad or table_VW.requires_grad
        device = x_NW.device.type
        vocabulary = max(1, table_VW.shape[0])
        chunk = max(1, _LOGITS_AT_ONCE.get(device, 1 << 27) // vocabulary)
        block = chunk
        if group is None and device in _LOGITS_IN_CACHE:  # a group communicates once a chunk
            block = max(1, _LOGITS_IN_CACHE[device] // vocabulary)
        # Autocast would cast the table again for each chunk: it caches casts only where gradients are recorded.
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table_VW.dtype
        typed_VW = table_VW.to(kind)
        loss = x_NW.new_zeros((), dtype=torch.float32)
        grad_x = torch.empty_like(x_NW) if needs_gradients else None
        # A frozen table has none.
        grad_table = torch.zeros_like(table_VW, dtype=torch.float32) if table_VW.requires_grad else None
        for start in range(0, x_NW.shape[0], chunk):
            part = slice(start, start + chunk)
            x_CW = x_NW[part].to(kind)
            logits_CV = product(x_CW, typed_VW.T)
            for logits, labels in zip(
                torch.split(logits_CV, block), torch.split(labels_N[part, None], block), strict=True
            ):
                loss += _score(logits, labels, first, group, softcap, gradient=needs_gradients)
            if grad_x is not None:
                grad_x[part] = product(logits_CV, typed_VW)
            if grad_table is not None:
                # Transposed twice on a CPU: oneDNN's bfloat16 product is 1.8 times faster in this order.
                on_cpu = device == "cpu"
                grad_table += product(x_CW.T, logits_CV).T if on_cpu else product(logits_CV.T, x_CW)
        ctx.save_for_backward(grad_x, None if grad_table is None else grad_table.to(table_VW.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        grad_x, grad_table = ctx.saved_tensors  # torch refuses a second backward: they are changed in place
        of_table = None if grad_table is None else grad_table.mul_(grads[0])
        return grad_x.mul_(grads[0]), of_table, None, None, None, None


def _score(
    logits_CV: Tensor,
    label_C1: Tensor,
    first: int,
    group: dist.ProcessGroup | None,
    softcap: float | None,
    *,
    gradient: bool,
) -> Tensor:
    """Summed loss of some rows; their logits are overwritten, with the gradient of the loss where needed."""
    counted_C1 = label_C1 != IGNORED
    label_C1 = label_C1 - first
    ours_C1 = counted_C1 & (label_C1 >= 0) & (label_C1 < logits_CV.shape[1])
    label_C1 = label_C1.where(ours_C1, 0)
    wide_CV = logits_CV.float()
    slope_CV = None
    if softcap is not None:
        tanh_CV = torch.tanh(wide_CV / softcap)
        wide_CV = tanh_CV * softcap
        slope_CV = 1 - tanh_CV.square_() if gradient else None
    wide_CV -= _over(group, wide_CV.amax(1, keepdim=True), dist.ReduceOp.MAX)
    at_label_C1 = _over(group, wide_CV.gather(1, label_C1) * ours_C1)
    # The only pass of exp, for loss and gradient.
    sum_C1 = _over(group, wide_CV.exp_().sum(1, keepdim=True))
    if gradient:
        wide_CV *= counted_C1 / sum_C1
        wide_CV.scatter_add_(1, label_C1, -ours_C1.float())
        if slope_CV is not None:
            wide_CV *= slope_CV
        logits_CV.copy_(wide_CV)
    return ((sum_C1.log() - at_label_C1) * counted_C1).sum()


def _over(
    group: dist.ProcessGroup | None, tensor: Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> Tensor:
    """Reduce over all parts of the vocabulary, in place."""
    if group is not None:
        dist.all_reduce(tensor, how, group=group)
    return tensor
