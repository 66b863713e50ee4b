"""Logits of many rows -> the likeliest token of each and whether the row is finite; in C on the CPU, else by torch.

torch takes 3 ms of one core for 64 rows of 49,152 logits in bfloat16, while its other threads wait.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrace.native import NativeUnavailableError, load_decoder

FORMS = {torch.float32: 0, torch.bfloat16: 2}
"""Types that the extension reads, by its numbers for them."""


def likeliest(logits_NV: Tensor) -> tuple[list[int], list[bool]]:
    """The first of the highest logits of each row, and whether the row can be sampled from.

    A row with NaN, or whose highest logit is infinite, cannot; its token has no meaning.

    Args:
        logits_NV: any float type; V >= 1.
    """
    native = _native() if logits_NV.device.type == "cpu" and logits_NV.dtype in FORMS else None
    if native is None:
        highest_N, ids_N = logits_NV.max(dim=-1)  # NaN anywhere in a row makes its maximum NaN
    else:
        logits_NV = logits_NV.contiguous()
        N, V = logits_NV.shape
        ids_N, highest_N = torch.empty(N, dtype=torch.int64), torch.empty(N)
        native.likeliest_rows(
            FORMS[logits_NV.dtype], torch.get_num_threads(),
            *(tensor.data_ptr() for tensor in (logits_NV, ids_N, highest_N)), N, V,
        )  # fmt: skip
    return ids_N.tolist(), torch.isfinite(highest_N).tolist()


def _native() -> Any:
    try:
        return load_decoder()
    except NativeUnavailableError:
        return None
