"""Rows of a store -> tokens in a buffer: row i of length T is tokens [iT, iT + T]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headrace.store import Store


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

    def fill(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Tokens of rows into `out`.

        Args:
            rows: int64 [B], in [0, num_rows).
            out: [B, T + 1] in the stored type, C order.
        """
        self.store.gather(rows * self.seq_len, self.seq_len + 1, out=out)

    def hint(self, rows: NDArray[np.int64]) -> None:
        """Tell the store which rows come soon."""
        self.store.prefetch(rows * self.seq_len, self.seq_len + 1)
