"""A store (or a mixture) and options -> batches: this rank's rows of each global batch, resumable at any position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

from typing_extensions import Unpack

from headrace.errors import ConfigError
from headrace.load.batch import Array
from headrace.load.batch_builder import BatchBuilder
from headrace.load.defaults import is_remote, order_name, row_order, threads_for
from headrace.load.device import DevicePlacement
from headrace.load.distributed import data_rank
from headrace.load.host import HostPlacement, use_torch
from headrace.load.indices import IndexStream
from headrace.load.mixture import Mixture
from headrace.load.options import (
    MAX_EPOCHS,
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
from headrace.load.pytree import register_batches
from headrace.load.read_ahead import ReadAhead
from headrace.load.rows import ConcatenatedRows
from headrace.load.stateful import StatefulBatches
from headrace.order import OrderSpec, rank_slice
from headrace.stats import StageCount, Stats

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from headrace.order import QuotaTable, RowOrder
    from headrace.store import RowLookup, SampleStore, Store


class Loader(StatefulBatches[Array]):
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
        if not hasattr(source, "fingerprint"):
            raise ConfigError(
                f"Loader: source is {source!r:.200} ({type(source).__name__}), expected a store or a mixture. Give "
                'headrace.Store.open("STORE"), or headrace.SampleStore.open("STORE") for a store of samples'
            )
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
        self._begin_at_zero()
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

    # --- rows, batch size and order ---

    @property
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks; of a mixture, the rows of all its stores."""
        return sum(rows.num_rows for rows in self._rows)

    @property
    def batch_size(self) -> int:
        """Rows per global batch. It can be set between batches: positions count rows, so the order stays."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, rows: int) -> None:
        with self._lock:
            self._prefetcher.close()
            self._set_batch_size(rows)

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

    # --- statistics and copies ---

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


def _checked_options(name: str, options: Any, expected: type) -> Any:
    if options is None:
        return expected()
    if not isinstance(options, expected):
        raise ConfigError(f"{name}={options!r}: expected headrace.{expected.__name__}(...)")
    return options
