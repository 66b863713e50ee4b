"""A store (or a mixture) and options -> batches: this rank's rows of each global batch, resumable at any position."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NoReturn, Self, overload

from typing_extensions import Unpack

from headrace.errors import ConfigError, OrderError, ResumeError, WorkerError
from headrace.load.batch import Array, Batch
from headrace.load.batch_builder import BatchBuilder
from headrace.load.callers import (
    WITH_ACCELERATE,
    called_by_accelerate,
    called_by_lightning,
    iterated_by_accelerate,
)
from headrace.load.defaults import is_remote, order_name, row_order, threads_for
from headrace.load.device import DevicePlacement
from headrace.load.distributed import check_rank, check_workers, data_rank
from headrace.load.forks import fork_count
from headrace.load.host import HostPlacement, use_torch
from headrace.load.indices import IndexStream
from headrace.load.mixture import Mixture
from headrace.load.options import (
    MAX_EPOCHS,
    MAX_POSITION,
    MAX_SEQ_LEN,
    BatchOptions,
    ColumnOptions,
    Packing,
    ReadOptions,
    ShuffleOption,
    check_packing,
    checked_int,
    optional_int,
)
from headrace.load.packing.rows import PackedRows
from headrace.load.prefetch import Prefetcher
from headrace.load.progress import Progress
from headrace.load.pytree import register_batches
from headrace.load.read_ahead import ReadAhead
from headrace.load.rows import ConcatenatedRows
from headrace.order import OrderSpec, position_from_state, rank_slice, state_from_position
from headrace.stats import StageCount, Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from headrace.order import QuotaTable, RowOrder
    from headrace.store import RowLookup, SampleStore, Store

_ENDLESS_BATCHES = 1 << 40
"""Length that Lightning sees of an endless loader."""


class Loader(Generic[Array]):
    """Batches of a store in an order that is a function of seed and position.

    `for batch in loader` is one pass: this rank's rows of one global batch after another, `epochs` epochs long. The
    next loop reads the next pass, so that `for epoch in range(3): for batch in loader:` with epochs=1 reads three
    epochs, each in its own order. After `load_state_dict` or `seek` the next loop reads the rest of the pass that
    the position lies in. With epochs=None a loop never ends, and a new one goes on at the position.

    `next(loader)` takes one batch and raises StopIteration at the pass's end, until a loop or `seek` begins another.
    Of a `SampleStore` the loader takes `image=ImageTransform(...)`, `interactions=InteractionOptions(...)` and
    `columns=` in the place of seq_len and packing; its batches are mappings from a column's name to its values.

    The state is one position, which moves when a batch is taken. Several threads may take from one loader: each
    batch is delivered once.

    Args:
        source: a Store, or a Mixture from `mix`.
        seq_len: T, input tokens per row.
        batch_size: rows per global batch, over all ranks. A multiple of the ranks gives every rank the same
            number; otherwise they differ by one.
        seed: any int; names the order.
        epochs: epochs of one pass; None is endless. Batches run across the end of an epoch, so that every row is
            read once per epoch and only a pass's very last batch can be partial.
        rank: this data-parallel rank; by default torch.distributed's where it is initialised, else torchrun's
            RANK, else 0. With tensor or pipeline parallelism give the data-parallel rank.
        world_size: data-parallel ranks; by default from the same place.
        shuffle: "global" is one permutation of all rows; "blocks" permutes blocks, then rows within a window
            of blocks, so that each block is fetched and decoded once per epoch; "none" is the store's order;
            "auto" is global where the store is mapped, blocks where it is compressed or remote. True is
            "auto", False "none".
        packing: None cuts the stream every seq_len tokens; "best_fit" puts whole documents side by side.
        output: what a batch carries, and where: framework, device, document and position ids, label masks.
        reading: how rows are read: threads, batches made ahead, the window of a block shuffle, packing plans.

    Raises:
        ConfigError: options of a wrong type or that make no sense together, or a store without a row of this length.
        OrderError: a rank out of range.
    """

    _kinds: ClassVar[dict[type, type[Loader[Any]]]] = {}
    """Class of a source -> the loader for it."""
    _max_chunk: int | None = None
    """Positions whose rows are computed at a time at most."""

    def __new__(cls, source: Any = None, *_: Any, **options: Any) -> Self:
        """A loader of the source's kind. Unpickling gives no source."""
        kind: Any = Loader._kinds.get(type(source), cls) if cls is Loader else cls
        takes, others = (
            ("tokens", ("image", "columns", "interactions"))
            if kind is Loader
            else ("samples", ("seq_len", "packing"))
        )
        if cls is Loader and (wrong := [name for name in others if name in options]):
            raise ConfigError(
                f"{' and '.join(wrong)}: not an option of stores of {takes}, and the source is "
                f"{getattr(source, 'url', repr(source))} ({type(source).__name__}). Leave it out, or open a store of "
                f"{'samples by headrace.SampleStore.open' if kind is Loader else 'tokens by headrace.Store.open'}"
            )
        made: Self = object.__new__(kind)
        return made

    # Tensors first: type checkers take the first that fits options which do not name a framework.
    @overload
    def __init__(
        self: Loader[Tensor],
        source: Store | Mixture,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = ...,
        epochs: int | None = ...,
        rank: int | None = ...,
        world_size: int | None = ...,
        shuffle: ShuffleOption = ...,
        packing: Packing | None = ...,
        output: BatchOptions[Literal["auto", "torch"]] | None = ...,
        reading: ReadOptions | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: Loader[NDArray[np.integer[Any]]],
        source: Store | Mixture,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = ...,
        epochs: int | None = ...,
        rank: int | None = ...,
        world_size: int | None = ...,
        shuffle: ShuffleOption = ...,
        packing: Packing | None = ...,
        output: BatchOptions[Literal["numpy"]],
        reading: ReadOptions | None = ...,
    ) -> None: ...

    # A store of samples: the object made is a SampleLoader, which checks its own options.
    @overload
    def __init__(
        self: Loader[Any],
        source: SampleStore,
        *,
        batch_size: int,
        seed: int = ...,
        epochs: int | None = ...,
        rank: int | None = ...,
        world_size: int | None = ...,
        shuffle: ShuffleOption = ...,
        output: BatchOptions[Any] | None = ...,
        reading: ReadOptions | None = ...,
        **contents: Unpack[ColumnOptions],
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # the implementation of SampleStore's overload is SampleLoader
        self,
        source: Store | Mixture,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        epochs: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: ShuffleOption = "auto",
        packing: Packing | None = None,
        output: BatchOptions[Any] | None = None,
        reading: ReadOptions | None = None,
    ) -> None:
        self.source = source
        self.seq_len = checked_int("seq_len", seq_len, low=1, high=MAX_SEQ_LEN)
        self.packing = check_packing(packing)
        self._set_options(
            seed=seed,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            output=output,
            reading=reading,
        )
        if wrong := [
            *self.output.of_token_columns,
            *(["group_by_length"] if self.reading.group_by_length else []),
        ]:
            raise ConfigError(
                f"{' and '.join(wrong)}: of columns of tokens in a store of samples; the source is a stream of tokens, "
                "whose rows have seq_len tokens each. Leave it out"
            )
        self._rows, self._orders, self._table = self._order_rows()
        self._prepare(batch_size)

    def _set_options(
        self,
        *,
        seed: int,
        epochs: int | None,
        rank: int | None,
        world_size: int | None,
        shuffle: ShuffleOption,
        output: BatchOptions[Any] | None,
        reading: ReadOptions | None,
    ) -> None:
        """Check and keep the options that loaders of both kinds have."""
        self.seed = checked_int("seed", seed)
        self.epochs = optional_int("epochs", epochs, low=1, high=MAX_EPOCHS)
        self.shuffle = shuffle
        self.output: BatchOptions[Any] = _checked_options("output", output, BatchOptions)
        self.reading: ReadOptions = _checked_options("reading", reading, ReadOptions)
        self.rank, self.world_size = data_rank(rank, world_size)
        self._rank_given = rank is not None
        self.stats = Stats()

    def _prepare(self, batch_size: int) -> None:
        """Begin at position 0, once the orders are known."""
        self._torch = use_torch("torch" if self.output.device is not None else self.output.framework)
        self._progress = Progress(None if self.epochs is None else self.epochs * self.num_rows)
        self._lock = threading.RLock()
        self._closed = False
        self._began: int | None = None
        register_batches()
        self._set_batch_size(batch_size)

    def _order_rows(
        self,
    ) -> tuple[list[ConcatenatedRows | PackedRows], list[RowOrder], QuotaTable | None]:
        """Rows and order of each store, and for a mixture which store is at which position."""
        rows: list[ConcatenatedRows | PackedRows] = [
            PackedRows(store, seq_len=self.seq_len, plan_dir=self.reading.packing_dir)
            if self.packing == "best_fit"
            else ConcatenatedRows(store, seq_len=self.seq_len)
            for store in self._stores
        ]
        mixture = self.source if isinstance(self.source, Mixture) else None
        orders = [
            row_order(
                one,
                self.shuffle,
                self.reading.window,
                seed=self.seed,
                source=one.store.fingerprint if mixture else "",
            )
            for one in rows
        ]
        return rows, orders, mixture.quota_table(self.seed) if mixture else None

    @property
    def _stores(self) -> tuple[Store, ...]:
        return self.source.stores if isinstance(self.source, Mixture) else (self.source,)

    # --- position and state ---

    @property
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks; of a mixture, the rows of all its stores."""
        return sum(rows.num_rows for rows in self._rows)

    @property
    def position(self) -> int:
        """Rows of the global order taken so far, over all ranks and epochs."""
        return self._progress.position

    @property
    def epoch(self) -> int:
        """Epoch of the next batch's first row: `for epoch in range(loader.epoch, 3)` goes on after a resume."""
        progress = self._progress
        if progress.end is not None and not self._index.steps(progress.position, progress.end):
            return max(progress.position, progress.end) // self.num_rows
        return progress.position // self.num_rows

    @property
    def batch_size(self) -> int:
        """Rows per global batch. It can be set between batches: positions count rows, so the order stays."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, rows: int) -> None:
        with self._lock:
            self._prefetcher.close()
            self._set_batch_size(rows)

    @property
    def batches_per_pass(self) -> int | None:
        """Batches of a whole pass, the same on every rank; None where the loader is endless."""
        return None if self.epochs is None else self._index.steps(0, self.epochs * self.num_rows)

    def __len__(self) -> int:
        """Batches of the loop that is under way, or else of the next one; the same on every rank.

        After `seek` or `load_state_dict` these are the batches that are left of the pass.

        Raises:
            TypeError: the loader is endless.
        """
        progress, whole = self._progress, self.batches_per_pass
        if called_by_lightning():
            # Counts the batches before a resume itself. From what has no length it takes a batch ahead.
            return _ENDLESS_BATCHES if whole is None else whole
        if whole is None:
            raise TypeError("this loader is endless (epochs=None) and has no length. Give epochs=")
        steps = self._index.steps(progress.begin, progress.end)
        return whole if steps is None or progress.is_whole_next else steps

    def seek(self, position: int) -> None:
        """Go to a position of the global order; the next batch begins there.

        Raises:
            OrderError: not an integer from 0 to 2**62.
        """
        try:
            position = checked_int("position", position, low=0, high=MAX_POSITION)
        except ConfigError as error:
            raise OrderError(f"seek: {error}") from None
        with self._lock:
            self._progress.seek(position)
            self._restart()

    def state_dict(self) -> dict[str, int | str]:
        """The position and what fixes the order: at most 256 bytes of JSON, the same on every rank."""
        position = self._progress.position
        return state_from_position(position, self._order_spec(position))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on at a saved position, on any number of ranks and with any batch size.

        Raises:
            ResumeError: not a loader's state, or one of another store, tokenizer, seq_len, seed, shuffle, packing
                or mixture.
        """
        if not hasattr(state, "get"):
            raise ResumeError(
                f"load_state_dict: expected the dict of Loader.state_dict(), got {type(state).__name__}"
            )
        position = state.get("position")
        spec = self._order_spec(position if isinstance(position, int) else 0)
        position = position_from_state(state, spec)
        if position > MAX_POSITION:
            raise ResumeError(f"loader state: position {position}, expected at most 2**62. Is it damaged?")
        self.seek(position)

    def _order_spec(self, position: int) -> OrderSpec:
        return OrderSpec(
            store=self.source.fingerprint,
            tokenizer=self.source.tokenizer_fingerprint,
            seq_len=self.seq_len,
            seed=self.seed,
            shuffle=order_name(self._orders),
            packing=self.packing,
            mixture=self._table.fingerprint_before(position) if self._table else "",
        )

    # --- batches ---

    def __iter__(self) -> Iterator[Batch[Array]]:
        """A loop over the next pass, or over the rest of one after `seek`, `load_state_dict` or `next(loader)`.

        Raises:
            ConfigError: a DataLoader of accelerate iterates it, which would shard its batches again.
        """
        if iterated_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)
        with self._lock:
            progress = self._progress
            loop: BatchIterator[Array] = BatchIterator(self)
            left = progress.end is None or self._index.steps(progress.position, progress.end)
            progress.begin_loop(loop, has_batches=bool(left))
            loop.end = progress.end
            return loop

    def __next__(self) -> Batch[Array]:
        """This rank's rows of the next global batch.

        Raises:
            StopIteration: the pass is at its end.
            ShardError: a block is damaged; the position stays, and the next call tries again.
            ConfigError: torch.distributed says another rank than the loader was made for, or the loader is closed.
            WorkerError: called in a forked child of the process that took the first batch.
        """
        return self.take(self._progress.end)

    def __getitem__(self, index: object) -> NoReturn:
        """Not supported: a loader is iterated.

        Raises:
            ConfigError: always; torch's DataLoader and the Trainer of transformers call this.
        """
        raise ConfigError(
            "a Loader is iterated, not indexed: it shuffles, batches and shards by itself. Loops and trainers take "
            "the loader in a DataLoader's place; where a DataLoader is insisted on, write "
            "headrace.interop.torch.dataloader(loader); for transformers, headrace.interop.hf.Trainer(...)"
        )

    def __getattr__(self, name: str) -> NoReturn:
        # accelerate looks for it on the dataset of a DataLoader before it iterates that.
        if name == "set_epoch" and called_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def take(self, end: int | None) -> Batch[Array]:
        """The batch at the position, of a pass that ends at `end`; iterators of the loader call this.

        Raises:
            StopIteration: the pass is at its end.
        """
        if self._began != fork_count():
            self._begin()
        progress, position, after = self._progress, -1, -1
        try:
            with self._lock:
                position = progress.position
                taken = self._prefetcher.take(position, end)
                if taken is not None:
                    batch, ready = taken
                    if ready is not None:  # the event after which the copy to the device is done
                        self._placement.arrive(batch.tokens, ready)
                    after = position + batch.global_rows
                    if end is not None and after > end:  # last="repeat": the next pass reads these rows again
                        after = end
                    progress.position = after
                    return batch
                if end == progress.end:
                    progress.finish()
        except BaseException:
            # Ctrl-C may come at any instruction: a batch that was not returned is not taken.
            with self._lock:
                if progress.position == after:
                    progress.position = position
                self._prefetcher.close()
            raise
        raise StopIteration

    def end_loop(self, loop: BatchIterator[Array]) -> None:
        """An iterator has reached the end of its pass."""
        self._progress.end_loop(loop)

    def _begin(self) -> None:
        """Check once, at the first batch; a loader that has not begun may be forked or sent to another process."""
        if self._closed:
            raise ConfigError("this loader is closed; make another one")
        if self._began is not None:
            raise WorkerError(
                f"this loader began in another process and is used in its forked child {os.getpid()}: both "
                "would read the same rows. Make the loader in the process that uses it"
            )
        if not self._rank_given:
            check_workers()
            check_rank(self.rank, self.world_size)
        self._began = fork_count()

    def _set_batch_size(self, batch_size: int) -> None:
        batch_size = self._checked_batch_size(batch_size)
        self._batch_size = batch_size
        begin, end = rank_slice(batch_size, rank=self.rank, world_size=self.world_size)
        width, dtype = self.seq_len + 1, self.source.dtype
        self._placement: HostPlacement | DevicePlacement = (
            HostPlacement(rows=end - begin, width=width, torch=self._torch)
            if self.output.device is None
            else DevicePlacement(self.output.device, width=width, dtype=dtype)
        )
        self._builder = BatchBuilder(
            self._rows,
            width=width,
            batch_size=batch_size,
            dtype=dtype,
            eos_id=self.source.eos_id,
            placement=self._placement,
            options=self.output,
            stats=self.stats,
        )
        self._start()

    def _checked_batch_size(self, batch_size: int) -> int:
        batch_size = checked_int("batch_size", batch_size, low=1, high=MAX_SEQ_LEN)
        if batch_size < self.world_size:
            raise ConfigError(
                f"batch_size={batch_size} rows for {self.world_size} ranks: batch_size is global, and every "
                f"rank needs a row. Use at least {self.world_size}"
            )
        return batch_size

    def _restart(self) -> None:
        """Drop what was made ahead; the next batch is made for the position."""
        self._prefetcher.close()
        self._start()

    def _start(self) -> None:
        look_up = self._rows[0].find if self._table is None and self.output.device is None else None
        self._index = self._index_stream(look_up)
        threads, while_long = threads_for(
            self._stores, self.reading.threads, on_device=self.output.device is not None
        )
        read_ahead = None
        if any(is_remote(store) for store in self._stores):
            distance = self.reading.prefetch * self._batch_size
            read_ahead = ReadAhead(self._index_stream(None), self._rows, self._orders, distance=distance)
        self._prefetcher = Prefetcher(
            self._builder,
            self._index,
            read_ahead=read_ahead,
            threads=threads,
            while_long=while_long,
            prefetch=self.reading.prefetch,
            stats=self.stats,
        )

    def _index_stream(self, look_up: Callable[[NDArray[np.int64]], RowLookup | None] | None) -> IndexStream:
        return IndexStream(
            self._orders,
            self._table,
            batch_size=self._batch_size,
            rank=self.rank,
            world_size=self.world_size,
            last=self.output.last,
            look_up=look_up,
            max_chunk=self._max_chunk,
        )

    # --- statistics, end, copies ---

    def stages(self) -> dict[str, StageCount]:
        """Where the time of loading goes: the stores' stages, `read` and `decode`, then the loader's own.

        `read` and `decode` count everything that was read from the stores since they were opened, by this
        loader and by others. `gather` is rows copied into batches, with its waits for blocks.
        """
        stages: dict[str, StageCount] = {}
        for stats in (*(store.stats for store in self._stores), self.stats):
            for name, stage in stats.snapshot().items():
                stages[name] = stages[name] + stage if name in stages else stage
        return stages

    def close(self) -> None:
        """End the threads and drop what was made ahead; the store stays open. A second call does nothing."""
        self._closed = True
        self._began = None
        self._prefetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Options and position: a pickled loader goes on at its position in another process."""
        names = ("seq_len", "seed", "epochs", "rank", "world_size", "shuffle", "packing", "output", "reading")
        options = {"batch_size": self._batch_size, **{name: getattr(self, name) for name in names}}
        return {"source": self.source, "options": options, "position": self._progress.position}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, state["source"], **state["options"])
        self.seek(state["position"])

    def __repr__(self) -> str:
        return (
            f"Loader({self.source.url!r}: {self.num_rows:,} rows of {self.seq_len}, batches of "
            f"{self._batch_size}, rank {self.rank} of {self.world_size}, "
            f"{order_name(self._orders)}, at {self._progress.position:,})"
        )


class BatchIterator(Generic[Array]):
    """One loop over a loader: the batches up to the end of its pass."""

    __slots__ = ("__weakref__", "_done", "_loader", "end")

    def __init__(self, loader: Loader[Array]) -> None:
        self._loader = loader
        self._done = False
        self.end: int | None = None
        """Position at which the pass ends."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch[Array]:
        if self._done:
            raise StopIteration
        try:
            return self._loader.take(self.end)
        except StopIteration:
            self._done = True
            self._loader.end_loop(self)
            raise


def _checked_options(name: str, options: Any, expected: type) -> Any:
    if options is None:
        return expected()
    if not isinstance(options, expected):
        raise ConfigError(f"{name}={options!r}: expected headrace.{expected.__name__}(...)")
    return options
