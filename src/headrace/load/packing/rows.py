"""Row numbers of a packing plan -> tokens: whole documents side by side, then padding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.load.packing.boundaries import DocumentBoundaries
from headrace.load.packing.plan import PackingPlan, plan_name, region_rows, write_plan
from headrace.load.rows import check_row_length
from headrace.paths import local_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.store import Store

# `Store.gather` reads spans of one length, and pieces of documents have any: a piece is read in spans of this many
# tokens, and what lies beyond its end is dropped. Shorter spans drop less, longer spans are fewer.
_SPAN_TOKENS = 64


class PackedRows:
    """Rows of best-fit packing. The plan is computed and written once for each store and row length."""

    packing = "best_fit"

    def __init__(self, store: Store, *, seq_len: int, plan_dir: str | os.PathLike[str] | None) -> None:
        self.store = store
        self.seq_len = seq_len
        self.has_spans = store.has_spans
        check_row_length(store, seq_len)
        path = _plan_dir(store, plan_dir) / plan_name(store, seq_len)
        if not path.exists():
            write_plan(store, seq_len, path)
        self.plan = PackingPlan(path, store=store, seq_len=seq_len)
        self.num_rows = self.plan.num_rows

    def read(self, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Tokens of rows, padded with the end-of-document id.

        Args:
            rows: int64 [B], in [0, num_rows).
            out: array to fill; a new one by default.

        Returns:
            [B, T + 1] in the stored type, C order.
        """
        if out is None:
            out = np.empty((len(rows), self.seq_len + 1), self.store.dtype)
        starts, lengths, counts = self.plan.pieces(rows)
        span = min(_SPAN_TOKENS, self.store.num_tokens)
        spans = -(-lengths // span)
        piece = np.repeat(np.arange(starts.size), spans)
        number = np.arange(piece.size) - np.repeat(np.cumsum(spans) - spans, spans)
        begins = starts[piece] + number * span
        size = np.minimum(span, lengths[piece] - number * span)
        # The last span must not run over the stream's end: it begins earlier, and is used from `skip` on.
        firsts = np.minimum(begins, self.store.num_tokens - span)
        skip = begins - firsts
        tokens = self.store.gather(firsts, span)
        places = np.arange(span)
        values = tokens[(places >= skip[:, None]) & (places < (skip + size)[:, None])]
        used = _sums(lengths, counts)
        if (used == out.shape[1]).all():
            out.reshape(-1)[:] = values
        else:
            out.fill(self.store.eos_id)
            out[np.arange(out.shape[1]) < used[:, None]] = values
        return out

    def find(self, rows: NDArray[np.int64]) -> None:
        """None: pieces of documents are looked up when they are read."""

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Announce rows that will be read to the store, so that it fetches their blocks ahead."""
        starts, lengths, _ = self.plan.pieces(rows)
        blocks = np.concatenate((starts, starts + lengths - 1)) // self.store.block_tokens
        self.store.prefetch(np.unique(blocks) * self.store.block_tokens, 1, ordered=False)

    @property
    def block_rows(self) -> int:
        """Rows that a block shuffle keeps together: those that were packed together."""
        return region_rows(self.seq_len)

    def learned(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens of rows are learned: bool [B, T + 1], False for padding."""
        starts, lengths, counts = self.plan.pieces(rows)
        learned = np.zeros((len(rows), self.seq_len + 1), np.bool_)
        places = np.arange(self.seq_len + 1) < _sums(lengths, counts)[:, None]
        learned[places] = self.store.learned(starts, lengths)
        return learned

    def boundaries(self, rows: NDArray[np.int64], tokens: NDArray[Any]) -> DocumentBoundaries:
        """Where pieces of documents begin in rows.

        Args:
            rows: int64 [B].
            tokens: [B, T + 1], as `read` returned them.
        """
        _, lengths, counts = self.plan.pieces(rows)
        used = _sums(lengths, counts)
        row = np.repeat(np.arange(len(rows)), counts)
        begins = np.cumsum(lengths) - lengths
        starts = np.zeros(tokens.shape, np.bool_)
        starts[row, begins - (np.cumsum(used) - used)[row]] = True
        padded = np.flatnonzero(used < tokens.shape[1])
        starts[padded, used[padded]] = True
        return DocumentBoundaries(starts=starts, used=used)


def _sums(values: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of each of the consecutive groups of `counts` values; no group is empty."""
    return np.add.reduceat(values, np.cumsum(counts) - counts)


def _plan_dir(store: Store, plan_dir: str | os.PathLike[str] | None) -> Path:
    if plan_dir is not None:
        return local_path(plan_dir, name="packing_dir")
    url = os.fspath(store.url)
    if "://" in url and not url.startswith("file://"):
        raise ConfigError(
            f"{url}: a packing plan is a memory-mapped local file, and this store is remote. Give "
            "reading=ReadOptions(packing_dir=...), a local directory that is kept"
        )
    return Path(url.removeprefix("file://")) / "packing"
