"""A store of samples and options -> batches of its columns, in an order that is a function of seed and position."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Unpack

from headrace.errors import ConfigError
from headrace.images import ImageTransform
from headrace.interactions import InteractionOptions
from headrace.load.batch import Array, Batch
from headrace.load.defaults import WINDOW_BYTES, choose_shuffle, is_remote
from headrace.load.indices import BatchIndex
from headrace.load.loader import Loader
from headrace.load.options import MAX_SEQ_LEN, ColumnOptions, checked_int, optional_int
from headrace.load.prefetch import Prefetcher
from headrace.load.sample_columns import SampleColumns
from headrace.load.sample_rows import SampleBatchBuilder
from headrace.order import LengthGroupedOrder, OrderSpec, RowOrder
from headrace.platform import available_cores
from headrace.store import List, SampleStore, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.load.options import BatchOptions, ReadOptions, ShuffleOption

_GROUP_BYTES = 4 << 20
"""Rows that a block shuffle keeps together: one request to a remote."""
_REMOTE_THREADS = 8
_MAX_THREADS = 64


class SampleLoader(Loader[Array]):
    """What `Loader(store)` makes of a `SampleStore`: batches that map a column's name to its values.

    Numbers and arrays are [B, ...]; ragged columns are (values, offsets), columns of tokens padded if `output` says so;
    strings are lists. With an `image` transform,
    images are decoded into uint8 [B, H, W, 3] (or chw), masks become int32 [B, H, W], masks of objects uint8 [N, H, W],
    and boxes and keypoints move with the pixels. A rank for which the last batch has no row gets a batch of 0 rows.

    Args:
        source: a `SampleStore`.
        batch_size, seed, epochs, rank, world_size, shuffle: see `Loader`.
        output: `framework` and `last`; `padding`, `pad_to_multiple_of`, `pad_id` and `max_length` of columns of tokens.
        reading: threads, which decode, and batches made ahead; the window of a block shuffle; `group_by_length`.
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
        if self.output.of_token_columns and not self._columns.tokens:
            raise ConfigError(
                f"{' and '.join(self.output.of_token_columns)}: of columns of tokens, and there is none among: "
                f"{', '.join(self._columns.features)}"
            )
        self._row_order = self._order()
        self._orders: Any = [self._grouped(batch_size)]
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

    def _grouped(self, batch_size: int) -> RowOrder | LengthGroupedOrder:
        """The order, with rows of similar length in one batch where that is asked for."""
        window, columns = self.reading.group_by_length, self._columns.tokens
        if window is None:
            return self._row_order
        if not columns:
            raise ConfigError(
                f"group_by_length={window}: no column of tokens among: {', '.join(self._columns.features)}"
            )
        group = self.reading.group_rows or checked_int("batch_size", batch_size, low=1, high=1 << 20)
        if self.reading.group_rows is None:
            # A pickled loader, and one whose batch_size is changed, keeps its order.
            self.reading = replace(self.reading, group_rows=group)
        longest = self.output.max_length or MAX_SEQ_LEN

        def lengths(rows: NDArray[np.int64]) -> NDArray[np.int64]:
            total: NDArray[np.int64] = np.minimum(self.source.lengths(rows, columns), longest).sum(axis=1)
            return total

        window = -(-window // group) * group
        self._max_chunk = window
        return LengthGroupedOrder(self._row_order, lengths, window=window, group_rows=group)

    @property
    def padding_share(self) -> float:
        """Share of padding among all places of the padded batches that this rank has made so far."""
        stages = self.stats.snapshot()
        return stages["padding"].items / max(1, stages["pad"].items) if "pad" in stages else 0.0

    @property
    def token_outputs(self) -> frozenset[str]:
        """Names in a batch whose values are token ids, padded or ragged."""
        if not self.output.padding:
            return frozenset(self._columns.tokens)
        return frozenset(
            self.empty_batch().keys() - (self._columns.features.keys() - set(self._columns.tokens))
        )

    @property
    def nested_texts(self) -> frozenset[str]:
        """Names in a batch with lists of texts in each row."""
        delivered = self._columns.features.items()
        masks = self._columns.instance_masks
        return frozenset(
            name for name, one in delivered if one == List(Value("string")) and name not in masks
        )

    def empty_batch(self) -> Batch[Any]:
        """A batch of no rows, with the names and types of any other; the position stays."""
        position = self._progress.position
        index = BatchIndex(position, 0, np.empty(0, np.int64), None, 0)
        return self._sample_builder.build(index)[0]

    @property
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks."""
        return int(self.source.num_rows)

    @property
    def _stores(self) -> tuple[Any, ...]:
        return (self.source,)

    def _order_spec(self, position: int) -> OrderSpec:
        del position
        order = self._row_order
        grouped = self._orders[0]
        lengths = ""
        if isinstance(grouped, LengthGroupedOrder):
            columns = ",".join(self._columns.tokens)
            lengths = f"{grouped.window}x{grouped.group_rows} {self.output.max_length or ''} {columns}"
        name = f"blocks:{order.block_rows}x{order.window}" if order.shuffle == "blocks" else order.shuffle
        return OrderSpec(
            store=self.source.fingerprint,
            tokenizer="",
            seq_len=0,
            seed=self.seed,
            shuffle=name,
            packing="none",
            lengths=lengths,
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
            output=self.output,
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
