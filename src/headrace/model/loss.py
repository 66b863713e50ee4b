"""Hidden states, token table and labels -> the sum of cross-entropies."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor

IGNORED = -100  # torch's own mark for a label that is not counted


def linear_cross_entropy(x_BTW: Tensor, table_VW: Tensor, labels_BT: Tensor) -> Tensor:
    """Sum over the counted labels of -log softmax(x @ table.T)[label], in nats, float32."""
    logits_NV = F.linear(x_BTW, table_VW).flatten(0, 1)
    return F.cross_entropy(logits_NV.float(), labels_BT.flatten(), reduction="sum", ignore_index=IGNORED)
