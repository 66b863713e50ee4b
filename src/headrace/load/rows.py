"""Rows of a store -> tokens in a buffer: row i of length T is tokens [iT, iT + T]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.load.packing.segments import Segments, starts_after, starts_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.store import Store
    from headrace.store.found import Found


GROUP_BLOCKS = 32
"""Blocks of the store that a block shuffle keeps together: 4 MiB of uint16, which is one request of a remote
store. Rows do not end where blocks end, so one block more is read with each group: 3 % of the bytes."""


class ConcatenatedRows:
    """The store's stream cut every `seq_len` tokens; each row carries one token of lookahead."""

    packing = "none"

    def __init__(self, store: Store, *, seq_len: int) -> None:
        self.store = store
        self.seq_len = seq_len
        self.num_rows = store.num_rows(seq_len)
        if self.num_rows < 1:
            raise ConfigError(
                f"{store.url}: {store.num_tokens} tokens hold no row of seq_len={seq_len} (a row needs "
                f"{seq_len + 1}). Use a shorter seq_len, or ingest more text"
            )

    def read(self, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Tokens of rows.

        Args:
            rows: int64 [B], in [0, num_rows).
            out: where to put them; a new array is as fast or faster, because NumPy gathers into one anyway.

        Returns:
            [B, T + 1] in the stored type, C order.
        """
        return self.store.gather(rows * self.seq_len, self.seq_len + 1, out=out)

    def find(self, rows: NDArray[np.int64]) -> Found:
        """Look up rows of many batches, int64 [batches, B], ahead of their reading; see `Store.find`."""
        return self.store.find(rows * self.seq_len, self.seq_len + 1)

    def hint(self, rows: NDArray[np.int64]) -> None:
        """Tell the store which rows come soon, in order of use."""
        self.store.prefetch(rows * self.seq_len, self.seq_len + 1)

    @property
    def block_rows(self) -> int:
        """Rows that stay together in a block shuffle: neighbours that share blocks of the store."""
        return max(1, GROUP_BLOCKS * self.store.block_tokens // self.seq_len)

    def segments(self, rows: NDArray[np.int64], tokens: NDArray[Any]) -> Segments:
        """Where documents begin in rows.

        Args:
            rows: int64 [B].
            tokens: [B, T + 1], what `read` made of them.
        """
        width = self.seq_len + 1
        if self.store.eos_id is not None and self.store.eos_id >= 0:
            # An id that ends documents stands nowhere else: no text is ever tokenized to it.
            starts = starts_after(tokens, self.store.eos_id)
        else:
            firsts = rows * self.seq_len
            ends = [self.store.document_ends(first, first + width) for first in firsts.tolist()]
            starts = starts_at(firsts, width, ends)
        return Segments(starts=starts, used=np.full(len(rows), width, np.int64))
