"""An index in an epoch -> a row, by two levels of shuffle: for blocks that are fetched or decoded whole.

Blocks of `block_rows` neighbouring rows are permuted; then the rows of each `window` consecutive blocks of that order
are permuted. A reader holds one window of blocks, reads each block once per epoch, and computes the row of any index
by arithmetic.

How well it mixes is one number: two rows of a batch come from the same block with probability
(block_rows - 1) / (window * block_rows - 1), that is about 1 in `window`; the global shuffle has
(block_rows - 1) / (rows - 1). `window` >= the number of blocks is a global shuffle.

The rows left over when `block_rows` does not divide them form a short block; it joins the window that a hash
chooses, so that it is not always the last to be read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import OrderError
from headrace.order.permutation import permute, permute_many, round_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWindow:
    """Two-level shuffle of one epoch of one source."""

    rows: int
    """Rows of the source; >= 1."""
    block_rows: int
    """Neighbouring rows that stay in one block; >= 1."""
    window: int
    """Blocks whose rows are mixed; >= 1."""
    seed: int
    source: str = ""
    epoch: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "block_rows", "window"):
            if getattr(self, name) < 1:
                raise OrderError(f"block shuffle: {name}={getattr(self, name)}, at least 1 is needed")

    @property
    def full_blocks(self) -> int:
        """Blocks of `block_rows` rows."""
        return self.rows // self.block_rows

    @property
    def num_windows(self) -> int:
        """Windows of the epoch; >= 1."""
        return max(1, -(-self.full_blocks // self.window))

    @property
    def same_block_share(self) -> float:
        """How well it mixes: the probability that two rows of one window come from the same block.

        1 / window, nearly; a global shuffle has block_rows / rows.
        """
        blocks = min(self.window, max(1, self.full_blocks))
        return (self.block_rows - 1) / max(1, blocks * self.block_rows - 1)

    def short_window(self) -> int:
        """The window that the short block joins."""
        count = self.num_windows
        keys = round_keys(seed=self.seed, source=self.source, epoch=self.epoch, purpose="short block")
        return permute(0, n=count, keys=keys)

    def rows_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows read at indices of the epoch.

        Args:
            indices: int64 [N], in [0, rows), in any order; fastest where neighbours share a window.

        Returns:
            int64 [N], in [0, rows).
        """
        rest = self.rows - self.full_blocks * self.block_rows
        short = self.short_window()
        window_rows = self.window * self.block_rows
        # Up to the end of the window with the short block, windows begin at multiples of window_rows; after
        # it, `rest` rows later.
        short_end = min((short + 1) * self.window, self.full_blocks) * self.block_rows + rest
        windows = np.where(
            indices < short_end, np.minimum(indices // window_rows, short), (indices - rest) // window_rows
        )
        # Neighbours of one window together: a reader's indices are few long runs of them.
        cuts = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), indices.size]
        rows = np.empty_like(indices)
        for begin, end in itertools.pairwise(cuts):
            if begin < end:
                rows[begin:end] = self._window_rows(indices[begin:end], int(windows[begin]), short, rest)
        return rows

    def _window_rows(
        self, indices: NDArray[np.int64], window: int, short: int, rest: int
    ) -> NDArray[np.int64]:
        first_block = window * self.window
        blocks = min(self.window, self.full_blocks - first_block)
        begin = first_block * self.block_rows + (rest if window > short else 0)
        size = blocks * self.block_rows + (rest if window == short else 0)
        keys = round_keys(seed=self.seed, source=self.source, epoch=self.epoch, purpose=f"window {window}")
        mixed = permute_many(indices - begin, n=size, keys=keys)
        slots, inside = np.divmod(mixed, self.block_rows)
        rows = np.empty_like(mixed)
        in_full = slots < blocks
        if in_full.any():
            keys = round_keys(seed=self.seed, source=self.source, epoch=self.epoch, purpose="blocks")
            # Permuted for each block of this window, not for each row.
            permuted = permute_many(
                np.arange(first_block, first_block + blocks, dtype=np.int64), n=self.full_blocks, keys=keys
            )
            rows[in_full] = permuted[slots[in_full]] * self.block_rows + inside[in_full]
        rows[~in_full] = self.full_blocks * self.block_rows + mixed[~in_full] - blocks * self.block_rows
        return rows
