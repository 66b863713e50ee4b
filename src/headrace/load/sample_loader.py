"""A store of samples and options -> batches of its columns, in an order that is a function of seed and position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from headrace.errors import ConfigError
from headrace.images import ImageTransform
from headrace.interactions import InteractionOptions
from headrace.load.batch import Array
from headrace.load.defaults import WINDOW_BYTES, choose_shuffle, is_remote
from headrace.load.loader import Loader
from headrace.load.options import ColumnOptions, optional_int
from headrace.load.prefetch import Prefetcher
from headrace.load.sample_rows import SampleBatchBuilder, SampleColumns
from headrace.order import OrderSpec, RowOrder
from headrace.platform import available_cores
from headrace.store import SampleStore

if TYPE_CHECKING:
    from headrace.load.options import BatchOptions, ReadOptions, ShuffleOption

_GROUP_BYTES = 4 << 20
"""Rows that a block shuffle keeps together: one request to a remote."""
_REMOTE_THREADS = 8
_MAX_THREADS = 64


class SampleLoader(Loader[Array]):
    """What `Loader(store)` makes of a `SampleStore`: batches that map a column's name to its values.

    Numbers and arrays are [B, ...]; ragged columns are (values, offsets); strings are lists. With an `image` transform,
    images are decoded into uint8 [B, H, W, 3] (or chw), masks become int32 [B, H, W], and boxes and keypoints move with
    the pixels. A rank for which the last batch has no row gets a batch of 0 rows.

    Args:
        source: a `SampleStore`.
        batch_size, seed, epochs, rank, world_size, shuffle: see `Loader`.
        output: `framework` and `last`; the other options are of tokens.
        reading: threads, which decode, and batches made ahead; the window of a block shuffle.
        contents: `image`: what is done to images; without it they are delivered encoded, as (bytes, offsets).
            `columns`: the columns of a batch; all by default. `interactions`: negatives, and each distinct history of
            a batch stored once; of stores of interactions.

    Raises:
        ConfigError: options of a wrong type or that make no sense together.
        OrderError: a rank out of range.
    """

    def __init__(
        self,
        source: SampleStore,
        *,
        batch_size: int,
        seed: int = 0,
        epochs: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: ShuffleOption = "auto",
        output: BatchOptions[Any] | None = None,
        reading: ReadOptions | None = None,
        **contents: Unpack[ColumnOptions],
    ) -> None:
        if unknown := contents.keys() - ColumnOptions.__annotations__.keys():
            raise TypeError(f"Loader() got an unexpected keyword argument {min(unknown)!r}")
        image, columns = contents.get("image"), contents.get("columns")
        interactions = contents.get("interactions")
        if image is not None and not isinstance(image, ImageTransform):
            raise ConfigError(f"image={image!r}: expected headrace.ImageTransform(size=...)")
        if interactions is not None and not isinstance(interactions, InteractionOptions):
            raise ConfigError(
                f"interactions={interactions!r}: expected headrace.InteractionOptions(num_negatives=...)"
            )
        self.source: Any = source
        self.seq_len = 0
        self.packing = "none"
        self.image = image
        self.interactions = interactions
        self.columns = None if columns is None else tuple(columns)
        self._set_options(
            seed=seed,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            output=output,
            reading=reading,
        )
        if self.output.needs_documents or self.output.label_mask is not None:
            raise ConfigError(
                "output: documents and label masks are of tokens; samples have framework and last"
            )
        if self.output.device is not None:
            raise ConfigError(
                "output: device is of tokens; move a batch of samples by batch[name].to(device)"
            )
        self._columns = SampleColumns(source, columns, image)
        self._orders = [self._order()]
        self._table = None
        self._prepare(batch_size)

    def _order(self) -> RowOrder:
        store, window = self.source, self.reading.window
        shuffle = choose_shuffle(self.shuffle, store, window)
        rows = max(1, store.num_rows * _GROUP_BYTES // max(1, store.nbytes))
        return RowOrder(
            rows=store.num_rows,
            seed=self.seed,
            source="",
            shuffle=shuffle,
            block_rows=rows if shuffle == "blocks" else 1,
            window=(window or WINDOW_BYTES // _GROUP_BYTES) if shuffle == "blocks" else 1,
        )

    @property
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks."""
        return int(self.source.num_rows)

    @property
    def _stores(self) -> tuple[Any, ...]:
        return (self.source,)

    def _order_spec(self, position: int) -> OrderSpec:
        del position
        order = self._orders[0]
        name = f"blocks:{order.block_rows}x{order.window}" if order.shuffle == "blocks" else order.shuffle
        return OrderSpec(
            store=self.source.fingerprint,
            tokenizer="",
            seq_len=0,
            seed=self.seed,
            shuffle=name,
            packing="none",
        )

    def _set_batch_size(self, batch_size: int) -> None:
        self._batch_size = self._checked_batch_size(batch_size)
        self._sample_builder = SampleBatchBuilder(
            self.source,
            self._columns,
            self.image,
            seed=self.seed,
            batch_size=self._batch_size,
            ranks=(self.rank, self.world_size),
            torch=self._torch,
            stats=self.stats,
            interactions=self.interactions,
        )
        self._start()

    def _start(self) -> None:
        self._index = self._index_stream(None)
        threads = optional_int("threads", self.reading.threads, low=0, high=_MAX_THREADS)
        if threads is None:
            threads = max(available_cores(), _REMOTE_THREADS) if is_remote(self.source) else available_cores()
        self._prefetcher = Prefetcher(
            self._sample_builder,
            self._index,
            read_ahead=None,
            threads=threads,
            while_long=False,
            prefetch=max(self.reading.prefetch, threads),
            stats=self.stats,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Options and position: a pickled loader goes on at its position in another process."""
        names = (
            *("seed", "epochs", "rank", "world_size", "shuffle"),
            *("image", "columns", "interactions", "output", "reading"),
        )
        options = {"batch_size": self._batch_size, **{name: getattr(self, name) for name in names}}
        return {"source": self.source, "options": options, "position": self._progress.position}

    def __repr__(self) -> str:
        return (
            f"Loader({self.source.url!r}: {self.num_rows:,} rows of {', '.join(self._columns.features)}, batches of "
            f"{self._batch_size}, rank {self.rank} of {self.world_size}, at {self._progress.position:,})"
        )


Loader._kinds[SampleStore] = SampleLoader  # noqa: SLF001  # the parts of one class
