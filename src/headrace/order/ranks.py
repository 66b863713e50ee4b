"""A global batch, a rank and a world's layout -> the slice of the batch that this rank reads."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import OrderError


def rank_slice(rows: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """The rows of one global batch that a rank takes.

    Slices are contiguous, in rank order, tile the batch, and differ by at most one row, so any number of
    ranks can read the same global batch. With fewer rows than ranks some slices are empty.

    >>> [rank_slice(8, rank=r, world_size=3) for r in range(3)]
    [(0, 2), (2, 5), (5, 8)]

    Args:
        rows: rows of the global batch; >= 0.
        rank: data-parallel rank, in [0, world_size).
        world_size: data-parallel ranks; >= 1.

    Returns:
        (begin, end), half open.

    Raises:
        OrderError: the rank is not one of the world's.
    """
    if not 0 <= rank < world_size:
        raise OrderError(
            f"rank {rank} is not one of {world_size} data-parallel ranks: use 0 to {world_size - 1}"
        )
    return rows * rank // world_size, rows * (rank + 1) // world_size


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshLayout:
    """How a world of processes is laid out; ranks of one data-parallel group read the same rows.

    Ranks count with the tensor dimension fastest, then pipeline, then data: rank = (data * pp + pipe) * tp +
    tensor, the order of a torch DeviceMesh with dimensions ("dp", "pp", "tp").

    >>> layout = MeshLayout(dp=2, pp=1, tp=2)
    >>> [layout.data_rank(rank) for rank in range(4)]
    [0, 0, 1, 1]
    """

    dp: int = 1
    """Data-parallel degree: distinct slices of a batch."""
    pp: int = 1
    """Pipeline-parallel degree."""
    tp: int = 1
    """Tensor-parallel degree."""

    def __post_init__(self) -> None:
        for name in ("dp", "pp", "tp"):
            if getattr(self, name) < 1:
                raise OrderError(f"layout: {name}={getattr(self, name)}, every degree is at least 1")

    @property
    def world_size(self) -> int:
        """Processes of the whole layout."""
        return self.dp * self.pp * self.tp

    def data_rank(self, rank: int) -> int:
        """The slice that a process reads, in [0, dp).

        Raises:
            OrderError: the rank is not one of the layout's.
        """
        if not 0 <= rank < self.world_size:
            raise OrderError(
                f"rank {rank} is not in a layout of dp={self.dp} x pp={self.pp} x tp={self.tp} = "
                f"{self.world_size} processes"
            )
        return rank // (self.pp * self.tp)
