"""Rank, number of processes and a port -> one process's figures as JSON on stdout, measured beside the others."""

from __future__ import annotations

import json
import sys
from datetime import timedelta


def main() -> None:
    """Join the group, probe at the same time as the others, print the figures."""
    import torch
    import torch.distributed as dist

    from headrace.probe.machine import probe_group

    rank, size, port = map(int, sys.argv[1:4])
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if device != "cpu" else "gloo",
        init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=timedelta(seconds=120),
    )  # fmt: skip
    dist.barrier()
    figures = probe_group(None, size=size, device=device, with_node=rank == 0)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
