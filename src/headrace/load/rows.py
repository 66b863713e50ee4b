"""Row numbers -> tokens of a store's stream: row i of length T is tokens [iT, iT + T], the last one included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.load.packing.boundaries import DocumentBoundaries, starts_after, starts_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.store import RowLookup, Store


GROUP_BLOCKS = 32
"""Blocks of the store that a block shuffle keeps together: 4 MiB of uint16, one request to a remote store. Rows do
not end where blocks end, so each group needs one block more than its rows fill: 3 % of the bytes."""


def check_row_length(store: Store, seq_len: int) -> None:
    """Refuse rows that all the tokens of a store do not fill.

    Raises:
        ConfigError: a row of seq_len inputs and one token of lookahead is longer than the store.
    """
    if store.num_tokens > seq_len:
        return
    cure = f"Use seq_len={store.num_tokens - 1} or less, or ingest more text"
    raise ConfigError(
        f"{store.url}: no row of seq_len={seq_len} can be filled: the store has {store.num_tokens} tokens, and a row "
        f"needs {seq_len + 1}. {cure if store.num_tokens > 1 else 'Ingest more text'}"
    )


class ConcatenatedRows:
    """Rows of the store's stream, cut every `seq_len` tokens; a row has one token more, the last label."""

    packing = "none"

    def __init__(self, store: Store, *, seq_len: int) -> None:
        self.store = store
        self.seq_len = seq_len
        self.has_spans = store.has_spans
        check_row_length(store, seq_len)
        self.num_rows = store.num_rows(seq_len)

    def read(self, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Tokens of rows.

        Args:
            rows: int64 [B], in [0, num_rows).
            out: array to fill; a new one by default, which is as fast.

        Returns:
            [B, T + 1] in the stored type, C order.
        """
        return self.store.gather(rows * self.seq_len, self.seq_len + 1, out=out)

    def find(self, rows: NDArray[np.int64]) -> RowLookup:
        """Look up rows of many batches, int64 [batches, B], before they are read; see `Store.lookup`."""
        return self.store.lookup(rows * self.seq_len, self.seq_len + 1)

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Announce rows to the store in the order in which they will be read, so that it fetches them ahead."""
        self.store.prefetch(rows * self.seq_len, self.seq_len + 1)

    @property
    def block_rows(self) -> int:
        """Rows that a block shuffle keeps together: neighbours, which share blocks of the store."""
        return max(1, GROUP_BLOCKS * self.store.block_tokens // self.seq_len)

    def learned(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens of rows are learned: bool [B, T + 1]; the others' labels are -100."""
        return self.store.learned(rows * self.seq_len, self.seq_len + 1).reshape(len(rows), -1)

    def boundaries(self, rows: NDArray[np.int64], tokens: NDArray[Any]) -> DocumentBoundaries:
        """Where documents begin in rows.

        Args:
            rows: int64 [B].
            tokens: [B, T + 1], as `read` returned them.
        """
        width = self.seq_len + 1
        if self.store.eos_id >= 0 and not self.has_spans:
            # The end-of-document id occurs only at the end of documents: no text is tokenized to it. With learned
            # spans it may end a turn of a conversation as well.
            starts = starts_after(tokens, self.store.eos_id)
        else:
            firsts = rows * self.seq_len
            ends = [self.store.document_ends(first, first + width) for first in firsts.tolist()]
            starts = starts_at(firsts, width, ends)
        return DocumentBoundaries(starts=starts, used=np.full(len(rows), width, np.int64))
