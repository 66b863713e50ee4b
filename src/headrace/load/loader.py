"""A store (or a mixture) and an order -> batches: this rank's rows of each global batch, resumable at any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, Self

from headrace.errors import ConfigError, OrderError, WorkerError
from headrace.load.ahead import BatchesAhead
from headrace.load.batches import BatchMaker, Wanted
from headrace.load.choose import (
    ShuffleChoice,
    check_options,
    is_remote,
    order_name,
    row_order,
    threads_for,
)
from headrace.load.device import DevicePlace
from headrace.load.forks import generation
from headrace.load.hints import Hints
from headrace.load.host import Framework, HostPlace, use_torch
from headrace.load.indices import IndexStream, Last
from headrace.load.mixture import Mixture
from headrace.load.packing.rows import PackedRows
from headrace.load.ranks import data_rank
from headrace.load.rows import ConcatenatedRows
from headrace.order.cursor import OrderSpec, position_from_state, state_from_position
from headrace.order.ranks import rank_slice
from headrace.stats import StageCount, Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from headrace.store import Store
    from headrace.store.found import Found
    from headrace.types import Batch


class Loader:
    """Batches of a store, in an order that is arithmetic.

    Iterating yields this rank's rows of one global batch after another, and continues where it stopped: the
    state is one position, committed when a batch is taken. At the end of the last epoch iteration stops, and
    stays stopped; `seek(0)` begins again.

    Args:
        source: a Store, or a Mixture from `mix`.
        seq_len: T, input tokens per row.
        batch_size: rows per global batch, over all ranks. A multiple of the ranks gives every rank the same
            number; otherwise they differ by one.
        seed: any int; names the order.
        epochs: passes over all rows; None is endless. Batches run across the end of an epoch, so that every
            row is read once per epoch and only the run's very last batch can be partial.
        rank: this data-parallel rank; by default torch.distributed's where it is initialised, else torchrun's
            RANK, else 0. With tensor or pipeline parallelism give `Layout.data_rank`.
        world_size: data-parallel ranks; by default from the same place.
        shuffle: "global" is one permutation of all rows; "blocks" permutes blocks, then rows within a window
            of blocks, so that each block is fetched and decoded once per epoch; "none" is the store's order;
            "auto" is global where the store is mapped, blocks where it is compressed or remote. True is
            "auto", False "none".
        window: blocks per window, for "blocks"; by default as many as decode to 64 MiB.
        packing: None cuts the stream every seq_len tokens; "best_fit" puts whole documents side by side.
        packing_dir: where packing plans are kept; by default in the store, in packing/.
        last: the run's last, partial batch: "keep" splits what is left over the ranks (a rank for which no
            row is left gets one filler row, all labels -100, so that all take the same number of steps),
            "drop" leaves it out, "repeat" fills it with the first rows of one further epoch.
        document_ids, position_ids, cu_seqlens: also say where documents lie in each row; see `Batch`.
        padding_free: inputs and labels as [1, N], the pieces of documents one after the other, with
            cu_seqlens.
        mask_document_starts: no loss on a document's first token (packed rows never have it).
        label_mask: from tokens [B, T + 1] to bool [B, T], True where a label is not to be learnt.
        framework: "torch", "numpy", or "auto": torch where it is installed.
        device: a torch device to deliver to; pinned memory, a stream of its own and widening there for CUDA.
        threads: that make batches ahead; 0 makes them when they are asked for. By default up to 4; for mapped
            stores, and on one core for compressed ones, one, and only while steps last longer than handing a
            batch over (20 us).
        prefetch: batches made ahead by threads; bounds memory.
        stats: counters to add to; by default the loader's own.

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
        shuffle: ShuffleChoice = "auto",
        window: int | None = None,
        packing: Literal["best_fit"] | None = None,
        packing_dir: str | os.PathLike[str] | None = None,
        last: Last = "keep",
        document_ids: bool = False,
        position_ids: bool = False,
        cu_seqlens: bool = False,
        padding_free: bool = False,
        mask_document_starts: bool = False,
        label_mask: Callable[[NDArray[Any]], NDArray[np.bool_]] | None = None,
        framework: Framework = "auto",
        device: Any = None,
        threads: int | None = None,
        prefetch: int = 4,
        stats: Stats | None = None,
    ) -> None:
        self._options = {name: value for name, value in locals().items() if name not in ("self", "stats")}
        check_options(
            seq_len=seq_len,
            batch_size=batch_size,
            prefetch=prefetch,
            threads=threads,
            epochs=epochs,
            last=last,
            packing=packing,
        )
        self.source = source
        self.seq_len = seq_len
        self.seed = seed
        self.epochs = epochs
        self.rank, self.world_size = data_rank(rank, world_size)
        self.stats = stats if stats is not None else Stats()
        self._mixture = source if isinstance(source, Mixture) else None
        stores = source.stores if isinstance(source, Mixture) else (source,)
        self._rows: list[ConcatenatedRows | PackedRows] = [
            PackedRows(store, seq_len=seq_len, plan_dir=packing_dir)
            if packing == "best_fit"
            else ConcatenatedRows(store, seq_len=seq_len)
            for store in stores
        ]
        self._orders = [
            row_order(
                rows, shuffle, window, seed=seed, source=rows.store.fingerprint if self._mixture else ""
            )
            for rows in self._rows
        ]
        self._table = self._mixture.quota_table(seed) if self._mixture else None
        self._end = None if epochs is None else epochs * self.num_rows
        self._last = last
        self._wanted = Wanted(
            document_ids=document_ids,
            position_ids=position_ids,
            cu_seqlens=cu_seqlens,
            padding_free=padding_free,
            mask_document_starts=mask_document_starts,
            label_mask=label_mask,
        )
        self._torch = use_torch("torch" if device is not None else framework)
        self._device = device
        self._hinted = any(is_remote(store) for store in stores)
        self._threads, self._while_long = threads_for(stores, threads, on_device=device is not None)
        self._prefetch = prefetch
        self._position = 0
        self._closed = False
        self._begun: int | None = None
        self._set_batch_size(batch_size)

    # --- where it stands ---

    @property
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks; of a mixture, the rows of all its stores."""
        return sum(rows.num_rows for rows in self._rows)

    @property
    def position(self) -> int:
        """Rows of the global order taken so far, all ranks and epochs."""
        return self._position

    @property
    def batch_size(self) -> int:
        """Rows per global batch. It can be set between batches: positions count rows, so the order stays."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, rows: int) -> None:
        self._ahead.close()
        self._set_batch_size(rows)

    def __len__(self) -> int:
        """Batches of the whole run, the same on every rank.

        Raises:
            TypeError: the run is endless.
        """
        steps = self._index.steps_from(0)
        if steps is None:
            raise TypeError("this loader is endless (epochs=None) and has no length; give epochs=")
        return steps

    def seek(self, position: int) -> None:
        """Go to a position of the global order; the next batch begins there.

        Raises:
            OrderError: before the beginning, or beyond the end.
        """
        if position < 0 or (self._end is not None and position > self._end + self._batch_size):
            raise OrderError(f"seek to position {position}: this run has positions 0 to {self._end}")
        self._position = position
        self._restart()

    def state_dict(self) -> dict[str, int | str]:
        """Where the run stands: at most 256 bytes of JSON, the same on every rank, for every batch size."""
        return state_from_position(self._position, self._spec(self._position))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on where a run stood, on any number of ranks.

        Raises:
            ResumeError: the state belongs to another store, tokenizer, seq_len, seed, shuffle, packing or
                mixture.
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
            shuffle=order_name(self._orders),
            packing=self._rows[0].packing,
            mixture=self._table.fingerprint_before(position) if self._table else "",
        )

    # --- its batches ---

    def __iter__(self) -> Iterator[Batch]:
        """The loader itself: iteration continues from the position."""
        return self

    def __next__(self) -> Batch:
        """This rank's rows of the next global batch.

        Raises:
            StopIteration: the last epoch is read.
            ShardError: a block is damaged; the position stays, and the next call tries again.
            WorkerError: called in a forked child of the process that took the first batch.
        """
        if self._begun != generation():
            self._begin()
        try:
            taken = self._ahead.take(self._position)
        except Exception:
            self._restart()
            raise
        if taken is None:
            raise StopIteration
        batch, ready = taken
        if ready is not None:  # the event is between the loader and its batches
            self._place.arrive(batch.tokens, ready)
        self._position = batch.position + batch.global_rows
        return batch

    def _begin(self) -> None:
        """Done once, at the first batch: a loader that has not begun may still be forked or sent away."""
        if self._closed:
            raise ConfigError("this loader is closed; make another one")
        if self._begun is not None:
            raise WorkerError(
                f"this loader began in another process and is used in its forked child {os.getpid()}: both "
                "would read the same rows. Make the loader in the process that uses it"
            )
        self._begun = generation()

    def _set_batch_size(self, batch_size: int) -> None:
        if batch_size < self.world_size:
            raise ConfigError(
                f"batch_size={batch_size} rows for {self.world_size} ranks: batch_size is global, and every "
                f"rank needs a row. Use at least {self.world_size}"
            )
        self._batch_size = batch_size
        begin, end = rank_slice(batch_size, rank=self.rank, world_size=self.world_size)
        width, dtype = self.seq_len + 1, self.source.dtype
        self._place: HostPlace | DevicePlace = (
            HostPlace(rows=end - begin, width=width, torch=self._torch)
            if self._device is None
            else DevicePlace(self._device, width=width, dtype=dtype)
        )
        self._maker = BatchMaker(
            self._rows,
            width=width,
            batch_size=batch_size,
            dtype=dtype,
            eos_id=self.source.eos_id,
            place=self._place,
            wanted=self._wanted,
            stats=self.stats,
        )
        self._start()

    def _indices(self, find: Callable[[NDArray[np.int64]], Found | None] | None = None) -> IndexStream:
        return IndexStream(
            self._orders,
            self._table,
            batch_size=self._batch_size,
            rank=self.rank,
            world_size=self.world_size,
            end=self._end,
            last=self._last,
            find=find,
        )

    def _restart(self) -> None:
        """Drop what was made ahead; the next batch is made for the position."""
        self._ahead.close()
        self._start()

    def _start(self) -> None:
        self._index = self._indices(
            self._rows[0].find if self._table is None and self._device is None else None
        )
        hints = None
        if self._hinted:
            hints = Hints(
                self._indices(),
                self._rows,
                self._orders,
                position=self._position,
                at_least=self._prefetch * self._batch_size,
            )
        self._ahead = BatchesAhead(
            self._maker,
            self._index,
            hints=hints,
            threads=self._threads,
            while_long=self._while_long,
            prefetch=self._prefetch,
            stats=self.stats,
        )

    # --- its life ---

    def stages(self) -> dict[str, StageCount]:
        """Where the time of loading goes: the stores' stages, `read` and `decode`, then the loader's own.

        `read` and `decode` count everything that was read from the stores since they were opened, by this
        loader and by others. `gather` is rows brought together, and includes what it waited for blocks.
        """
        stores = self.source.stores if isinstance(self.source, Mixture) else (self.source,)
        found: dict[str, StageCount] = {}
        for stats in (*(store.stats for store in stores), self.stats):
            for name, stage in stats.snapshot().items():
                found[name] = found[name] + stage if name in found else stage
        return found

    def close(self) -> None:
        """End the threads, drop what was made ahead; the store stays open. A second call does nothing."""
        self._closed = True
        self._begun = None
        self._ahead.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Options and position: a pickled loader goes on in another process where this one stands."""
        return {
            "options": {**self._options, "rank": self.rank, "world_size": self.world_size},
            "position": self._position,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = dict(state["options"])
        self.__init__(options.pop("source"), **options)  # type: ignore[misc]  # a loader is its options and position
        self.seek(state["position"])

    def __repr__(self) -> str:
        return (
            f"Loader({self.source.url!r}: {self.num_rows:,} rows of {self.seq_len}, batches of "
            f"{self._batch_size}, rank {self.rank} of {self.world_size}, "
            f"{order_name(self._orders)}, at {self._position:,})"
        )
