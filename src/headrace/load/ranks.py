"""What was given, torch.distributed, or torchrun's environment -> data-parallel rank and world size."""

from __future__ import annotations

import os
import sys

from headrace.errors import ConfigError, OrderError


def data_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's data-parallel rank and their number.

    Given values win; else torch.distributed where it is initialised; else RANK and WORLD_SIZE as torchrun
    sets them; else (0, 1). With tensor or pipeline parallelism, give those of `Layout.data_rank`.

    Raises:
        ConfigError: only one of the two is known.
        OrderError: the rank is not one of the world's.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank={rank}, world_size={world_size}: give both, or neither")
    if rank is None or world_size is None:
        rank, world_size = _from_torch() or _from_environment() or (0, 1)
    if not 0 <= rank < world_size:
        raise OrderError(
            f"rank {rank} is not one of {world_size} data-parallel ranks: use 0 to {world_size - 1}"
        )
    return rank, world_size


def _from_torch() -> tuple[int, int] | None:
    # Only where the caller has imported it: a process that does not use torch does not pay for its import.
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
