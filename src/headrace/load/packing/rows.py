"""Rows of a packing plan -> tokens in a buffer: whole documents side by side, then padding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.load.packing.plan import Plan, plan_name, region_rows, write_plan
from headrace.load.packing.segments import Segments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.store import Store

# Pieces have any length, `gather` one length at a time: they are read in stretches of this many tokens, and
# what lies beyond a piece's end is left out. Shorter stretches copy less for nothing, longer ones are fewer.
_STRETCH = 64


class PackedRows:
    """Rows of best-fit packing; the plan is made when it is not yet there."""

    packing = "best_fit"

    def __init__(self, store: Store, *, seq_len: int, plan_dir: str | os.PathLike[str] | None) -> None:
        self.store = store
        self.seq_len = seq_len
        path = _plan_dir(store, plan_dir) / plan_name(store, seq_len)
        if not path.exists():
            write_plan(store, seq_len, path)
        self.plan = Plan(path, store=store, seq_len=seq_len)
        self.num_rows = self.plan.num_rows

    def read(self, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Tokens of rows, the end-of-document id where a row has no more.

        Args:
            rows: int64 [B], in [0, num_rows).
            out: where to put them; a new array by default.

        Returns:
            [B, T + 1] in the stored type, C order.
        """
        if out is None:
            out = np.empty((len(rows), self.seq_len + 1), self.store.dtype)
        starts, lengths, counts = self.plan.pieces(rows)
        stretch = min(_STRETCH, self.store.num_tokens)
        stretches = -(-lengths // stretch)
        owner = np.repeat(np.arange(starts.size), stretches)
        number = np.arange(owner.size) - np.repeat(np.cumsum(stretches) - stretches, stretches)
        wanted = starts[owner] + number * stretch
        size = np.minimum(stretch, lengths[owner] - number * stretch)
        # The last stretch must not run over the stream's end: it begins earlier, and is used from `skip` on.
        firsts = np.minimum(wanted, self.store.num_tokens - stretch)
        skip = wanted - firsts
        found = self.store.gather(firsts, stretch)
        places = np.arange(stretch)
        values = found[(places >= skip[:, None]) & (places < (skip + size)[:, None])]
        used = _sums(lengths, counts)
        if (used == out.shape[1]).all():
            out.reshape(-1)[:] = values
        else:
            out.fill(self.store.eos_id)
            out[np.arange(out.shape[1]) < used[:, None]] = values
        return out

    def find(self, rows: NDArray[np.int64]) -> None:
        """Nothing: pieces of documents are looked up when they are read."""

    def hint(self, rows: NDArray[np.int64]) -> None:
        """Tell the store which rows come soon."""
        starts, lengths, _ = self.plan.pieces(rows)
        blocks = np.concatenate((starts, starts + lengths - 1)) // self.store.block_tokens
        self.store.prefetch(np.unique(blocks) * self.store.block_tokens, 1, ordered=False)

    @property
    def block_rows(self) -> int:
        """Rows that stay together in a block shuffle: those that were packed together."""
        return region_rows(self.seq_len)

    def segments(self, rows: NDArray[np.int64], tokens: NDArray[Any]) -> Segments:
        """Where pieces begin in rows.

        Args:
            rows: int64 [B].
            tokens: [B, T + 1], what `read` made of them.
        """
        _, lengths, counts = self.plan.pieces(rows)
        used = _sums(lengths, counts)
        owner = np.repeat(np.arange(len(rows)), counts)
        begins = np.cumsum(lengths) - lengths
        starts = np.zeros(tokens.shape, np.bool_)
        starts[owner, begins - (np.cumsum(used) - used)[owner]] = True
        padded = np.flatnonzero(used < tokens.shape[1])
        starts[padded, used[padded]] = True
        return Segments(starts=starts, used=used)


def _sums(values: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of each of the consecutive groups of `counts` values; no group is empty."""
    return np.add.reduceat(values, np.cumsum(counts) - counts)


def _plan_dir(store: Store, plan_dir: str | os.PathLike[str] | None) -> Path:
    if plan_dir is not None:
        return Path(plan_dir)
    url = os.fspath(store.url)
    if "://" in url and not url.startswith("file://"):
        raise ConfigError(
            f"{url}: a packing plan is a mapped local file, and this store is remote. Give packing_dir=, a "
            "local directory that stays"
        )
    return Path(url.removeprefix("file://")) / "packing"
