"""Options, torch.distributed or torchrun's environment -> this process's data-parallel rank and their number."""

from __future__ import annotations

import os
import sys

from headrace.errors import ConfigError, OrderError
from headrace.load.options import checked_int


def data_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's data-parallel rank and the number of ranks.

    The first of: the arguments; torch.distributed, where it is initialised; the environment's RANK and WORLD_SIZE,
    which torchrun sets; (0, 1). With tensor or pipeline parallelism pass the data-parallel rank.

    Raises:
        ConfigError: only one of the two is given, or one is not an integer.
        OrderError: the rank is not in [0, world_size).
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank={rank}, world_size={world_size}: give both, or neither")
    if rank is None or world_size is None:
        rank, world_size = _from_torch() or _from_environment() or (0, 1)
    rank, world_size = checked_int("rank", rank), checked_int("world_size", world_size, low=1)
    if not 0 <= rank < world_size:
        raise OrderError(
            f"rank {rank} is not one of {world_size} data-parallel ranks: use 0 to {world_size - 1}"
        )
    return rank, world_size


def check_rank(rank: int, world_size: int) -> None:
    """Refuse a rank that torch.distributed, initialised since, contradicts: two processes would read the same rows.

    Raises:
        ConfigError: the two differ.
    """
    now = _from_torch()
    if now is not None and now != (rank, world_size):
        raise ConfigError(
            f"the loader was made for rank {rank} of {world_size}, and torch.distributed, initialised since, says "
            f"rank {now[0]} of {now[1]}: rows would be read twice. Make the loader after init_process_group (with "
            "Lightning: in the train_dataloader method of the module), or give rank= and world_size="
        )


def check_workers() -> None:
    """Refuse one of several worker processes of a DataLoader: each would deliver every batch.

    Raises:
        ConfigError: this process is one.
    """
    data = sys.modules.get("torch.utils.data")
    worker = None if data is None else data.get_worker_info()
    if worker is not None and worker.num_workers > 1:
        raise ConfigError(
            f"a loader in {worker.num_workers} workers of a DataLoader: every worker would deliver every batch. Use "
            "num_workers=0 (the loader makes batches ahead by threads), or give rank= and world_size= by worker"
        )


def _from_torch() -> tuple[int, int] | None:
    # Only where the process has imported it: others do not pay for the import of torch.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _from_environment() -> tuple[int, int] | None:
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return None
    try:
        return int(rank), int(world_size)
    except ValueError:
        raise ConfigError(
            f"environment: RANK={rank!r}, WORLD_SIZE={world_size!r} are not integers. Unset them, or give "
            "rank= and world_size="
        ) from None
