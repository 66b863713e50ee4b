"""The processes of a group -> bytes/s of an all-reduce for each process, and seconds of the smallest one."""

from __future__ import annotations

import statistics
import time
from typing import Any

_NBYTES = 8 * 2**20
_ROUNDS = 5


def all_reduce_rate(group: Any, *, size: int, device: str = "cpu") -> tuple[float, float]:
    """Bandwidth and latency of all-reduces; every process of the group calls it at the same time.

    Args:
        group: of torch.distributed; None for the default one.
        size: its processes, 2 or more.
        device: of the tensors.

    Returns:
        bytes/s that each process sends and receives in a ring, and seconds of an all-reduce of one number.

    Source: Thakur et al. 2005: a ring moves 2 (n - 1) / n of the bytes over each process's link.
    """
    import torch
    import torch.distributed as dist

    large = torch.ones(_NBYTES // 4, device=device)
    small = torch.ones(1, device=device)

    def seconds(tensor: Any) -> float:
        dist.all_reduce(tensor, group=group)
        times = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            dist.all_reduce(tensor, group=group)
            if tensor.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            tensor.fill_(1.0)
        return statistics.median(times)

    latency = seconds(small)
    moved = 2 * (size - 1) / size * _NBYTES
    return moved / max(seconds(large) - latency, 1e-9), latency
