"""A store (or a mixture) and an order -> batches: this rank's rows of each global batch, resumable at any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from headrace.errors import ConfigError, OrderError
from headrace.load.buffers import BufferPool
from headrace.load.indices import BatchIndex, IndexStream, Last
from headrace.load.mixture import Mixture
from headrace.load.ranks import data_rank
from headrace.load.rows import ConcatenatedRows
from headrace.load.widen import Framework, widener
from headrace.order.cursor import OrderSpec, position_from_state, state_from_position
from headrace.order.stream import RowOrder, Shuffle
from headrace.stats import Stats
from headrace.types import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace.store import Store


class Loader:
    """Batches of a store, in an order that is arithmetic.

    Iterating yields this rank's rows of one global batch after another, and continues where it stopped: the
    state is one position, committed when a batch is taken. At the end of the last epoch iteration stops, and
    `seek(0)` begins again.

    Args:
        source: a Store, or a Mixture from `mix`.
        seq_len: T, input tokens per row.
        batch_size: rows per global batch, over all ranks.
        seed: any int; names the order.
        epochs: passes over all rows; None is endless. Batches run across the end of an epoch, so that every
            row is read once per epoch and only the run's very last batch can be partial.
        rank, world_size: this data-parallel rank and their number; by default torch.distributed's where it is
            initialised, else torchrun's RANK and WORLD_SIZE, else 0 and 1.
        shuffle: "auto", "global", "blocks" or "none".
        last: the run's last, partial batch: "keep" splits what is left over the ranks, "drop" leaves it out,
            "repeat" fills it with the first rows of a further epoch.

    Raises:
        ConfigError: options that make no sense together, or a store without a row of this length.
        OrderError: a rank out of range.
    """

    def __init__(
        self,
        source: Store | Mixture,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        epochs: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: Shuffle | Literal["auto"] | bool = "auto",
        last: Last = "keep",
        framework: Framework = "auto",
        stats: Stats | None = None,
    ) -> None:
        if seq_len < 1 or batch_size < 1:
            raise ConfigError(f"seq_len={seq_len}, batch_size={batch_size}: both must be at least 1")
        if epochs is not None and epochs < 1:
            raise ConfigError(f"epochs={epochs}: at least 1, or None for an endless run")
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = epochs
        self.rank, self.world_size = data_rank(rank, world_size)
        if batch_size < self.world_size:
            raise ConfigError(
                f"batch_size={batch_size} rows for {self.world_size} ranks: batch_size is global, and every "
                f"rank needs a row. Use at least {self.world_size}"
            )
        self.source = source
        self.stats = stats if stats is not None else Stats()
        self._mixture = source if isinstance(source, Mixture) else None
        stores = source.stores if isinstance(source, Mixture) else (source,)
        self._rows = [ConcatenatedRows(store, seq_len=seq_len) for store in stores]
        kind = _shuffle_kind(shuffle)
        self._orders = [
            RowOrder(
                rows=rows.num_rows,
                seed=seed,
                source=rows.store.fingerprint if self._mixture else "",
                shuffle=kind,
            )
            for rows in self._rows
        ]
        self._shuffle = kind
        self._last: Last = last
        self._table = self._mixture.quota_table(seed) if self._mixture else None
        self._end = None if epochs is None else epochs * self.num_rows
        self._widen = widener(framework)
        self._dtype = source.dtype
        self._pid = os.getpid()
        self._position = 0
        self._build()

    def _build(self) -> None:
        self._index = IndexStream(
            self._orders,
            self._table,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            end=self._end,
            last=self._last,
        )
        local = (self.batch_size * (self.rank + 1)) // self.world_size - (
            self.batch_size * self.rank
        ) // self.world_size
        self._pool = BufferPool((local, self.seq_len + 1), self._dtype)

    @property
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks (of a mixture: the rows of all its stores)."""
        return sum(rows.num_rows for rows in self._rows)

    @property
    def position(self) -> int:
        """Rows of the global order taken so far, all ranks and epochs."""
        return self._position

    def seek(self, position: int) -> None:
        """Go to a position of the global order; the next batch begins there.

        Raises:
            OrderError: before the beginning or beyond the end.
        """
        if position < 0 or (self._end is not None and position > self._end + self.batch_size):
            raise OrderError(f"seek to position {position}: this run has positions 0 to {self._end}")
        self._position = position

    def __len__(self) -> int:
        """Batches of the whole run, the same on every rank.

        Raises:
            TypeError: the run is endless.
        """
        steps = self._index.steps_from(0)
        if steps is None:
            raise TypeError("this loader is endless (epochs=None) and has no length; give epochs=")
        return steps

    def __iter__(self) -> Iterator[Batch]:
        """Continue from the position."""
        return self

    def __next__(self) -> Batch:
        """This rank's rows of the next global batch."""
        index = self._index.at(self._position)
        if index is None:
            raise StopIteration
        batch = self._produce(index)
        self._position = index.position + index.global_rows
        return batch

    def _produce(self, index: BatchIndex) -> Batch:
        with self.stats.busy("gather", items=len(index.rows), nbytes=0):
            count = len(index.rows)
            tokens = self._pool.take(max(1, count))
            if count == 0:
                tokens.fill(self.source.eos_id)
            elif index.sources is None:
                self._rows[0].fill(index.rows, tokens)
            else:
                for number in np.unique(index.sources):
                    chosen = index.sources == number
                    part = np.empty((int(chosen.sum()), self.seq_len + 1), self._rows[number].store.dtype)
                    self._rows[number].fill(index.rows[chosen], part)
                    tokens[chosen] = part
        return Batch(
            tokens=tokens,
            position=index.position,
            epoch=index.epoch,
            step=index.position // self.batch_size,
            num_rows=count,
            global_rows=index.global_rows,
            rows=index.rows,
            sources=index.sources,
            widen=self._widen,
        )

    def state_dict(self) -> dict[str, int | str]:
        """Where the run stands: at most 256 bytes of JSON, independent of rank and batch size."""
        return state_from_position(self._position, self._spec(self._position))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on where a run stood, on any number of ranks.

        Raises:
            ResumeError: the state belongs to another store, tokenizer, seq_len, seed, shuffle or mixture.
        """
        position = state.get("position")
        spec = self._spec(position if isinstance(position, int) else 0)
        self.seek(position_from_state(state, spec))

    def _spec(self, position: int) -> OrderSpec:
        return OrderSpec(
            store=self.source.fingerprint,
            tokenizer=self.source.tokenizer_fingerprint,
            seq_len=self.seq_len,
            seed=self.seed,
            shuffle=self._shuffle,
            packing=self._rows[0].packing,
            mixture=self._table.fingerprint_before(position) if self._table else "",
        )

    def close(self) -> None:
        """Release threads and buffers; the store stays open."""

    def __enter__(self) -> Self:
        """The loader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _shuffle_kind(shuffle: Shuffle | Literal["auto"] | bool) -> Shuffle:
    if shuffle is True or shuffle == "auto":
        return "global"
    if shuffle is False:
        return "none"
    if shuffle not in ("none", "global", "blocks"):
        raise ConfigError(f'shuffle={shuffle!r}: use "auto", "global", "blocks" or "none"')
    return shuffle
