"""A store of samples and row numbers -> the columns of a batch: images decoded into it, boxes and masks moved along."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError, DocumentError, ShardError
from headrace.images import (
    ImageHeader,
    PositionRandom,
    decode_mask,
    geometry_of,
    move_boxes,
    move_keypoints,
    move_mask,
    move_points,
    paste,
    place_instance_masks,
    read_header,
    render,
)
from headrace.load.batch import Batch
from headrace.load.buffers import BufferPool
from headrace.load.interaction_rows import InteractionColumns, output_histories
from headrace.load.sample_columns import SampleColumns
from headrace.load.token_columns import cut_rows, model_inputs
from headrace.order import rank_slice
from headrace.store import Ragged, Value
from headrace.tokens import pad_id_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headrace.images import Geometry, ImageTransform
    from headrace.interactions import InteractionOptions
    from headrace.load.indices import BatchIndex
    from headrace.load.options import BatchOptions
    from headrace.stats import Stats
    from headrace.store import Feature, SampleStore

_TORCH_TYPES = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
"""Types that torch has only in part -> the next larger one."""
MASK_PADDING = 255
"""What a mask has where there is no image: the class that losses ignore by convention."""


class SampleBatchBuilder:
    """Makes batches of rows; holds no position, so that threads can share it."""

    def __init__(
        self,
        store: SampleStore,
        columns: SampleColumns,
        transform: ImageTransform | None,
        *,
        seed: int,
        batch_size: int,
        ranks: tuple[int, int],
        output: BatchOptions[Any],
        torch: bool,
        stats: Stats,
        interactions: InteractionOptions | None = None,
    ) -> None:
        self._store = store
        self._columns = columns
        self._interactions: InteractionColumns | None = None
        if interactions is not None:
            self._interactions = InteractionColumns(
                store, columns.gathered, interactions, seed=seed, ranks=ranks
            )
        self._transform = transform
        self._seed = seed
        self._batch_size = batch_size
        self._rank, self._world_size = ranks
        self._torch = torch
        self._stats = stats
        self._output_options = output
        self._pad_id = _pad_id(store, output) if output.padding else 0
        begin, end = rank_slice(batch_size, rank=self._rank, world_size=self._world_size)
        self._pool: BufferPool | None = None
        if transform is not None:
            self._pool = BufferPool((end - begin, *transform.shape, 3), np.uint8, keep=8)
        self._full = end - begin

    def build(self, index: BatchIndex) -> tuple[Batch[Any], None]:
        """The batch of these rows; nothing is waited for.

        Raises:
            ShardError: a block, or an image, is damaged.
        """
        start = time.perf_counter()
        arrays: dict[str, Any] = (
            dict(self._store.gather(index.rows, self._columns.gathered))
            if self._interactions is None
            else self._interactions.gather(index)
        )
        self._stats.add("gather", items=len(index.rows), busy_s=time.perf_counter() - start)
        if self._transform is not None:
            start = time.perf_counter()
            self._place_images(index, arrays)
            self._stats.add("image", items=len(index.rows), busy_s=time.perf_counter() - start)
        batch: Batch[Any] = Batch(self._outputs(arrays))
        batch.position, batch.global_rows, batch.epoch = index.position, index.global_rows, index.epoch
        batch.rows, batch.sources, batch.num_rows = index.rows, None, len(index.rows)
        batch.step, batch.masked = index.position // self._batch_size, None
        return batch, None

    # --- images ---

    def _place_images(self, index: BatchIndex, arrays: dict[str, Any]) -> None:
        columns, transform = self._columns, self._transform
        assert transform is not None
        assert self._pool is not None
        assert columns.image is not None
        rows = index.rows
        out = (
            self._pool.take()
            if len(rows) == self._full
            else np.empty((len(rows), *transform.shape, 3), np.uint8)
        )
        begin, _ = rank_slice(index.global_rows, rank=self._rank, world_size=self._world_size)
        stored: Any = arrays.get(columns.image)
        encoded = [] if stored is not None else self._store.bytes_of(rows, columns.image)
        masks = {name: self._store.bytes_of(rows, name) for name in columns.masks}
        placed: dict[str, list[NDArray[Any]]] = {name: [] for name in masks}
        geometries: list[Geometry] = []
        sizes: list[tuple[int, int]] = []
        for i in range(len(rows)):
            random = PositionRandom(self._seed, index.position + begin + i)
            try:
                if stored is None:
                    header = read_header(encoded[i])
                    geometry = geometry_of(transform, header, random)
                    render(encoded[i], header, geometry, transform, random, out[i])
                else:
                    pixels = _as_rgb(stored[i])
                    header = ImageHeader(pixels.shape[0], pixels.shape[1], 1, "array")
                    geometry = geometry_of(transform, header, random)
                    paste(pixels, header, geometry, transform, random, out[i])
                for name, data in masks.items():
                    placed[name].append(self._mask(data[i], header, geometry))
            except DocumentError as error:
                raise ShardError(
                    f"{self._store.url}: row {rows[i]}: column {columns.image!r}: {error}. Ingest reads every image "
                    "once, and lists a damaged one: write the store again"
                ) from error
            geometries.append(geometry)
            sizes.append((header.height, header.width))
        chw = transform.layout == "chw"
        arrays[columns.image] = np.ascontiguousarray(out.transpose(0, 3, 1, 2)) if chw else out
        for name, values in placed.items():
            arrays[name] = np.stack(values) if values else np.empty((0, *transform.shape), np.int32)
        self._move(arrays, geometries)
        for name in columns.instance_masks:
            arrays[name] = self._instance_masks(name, arrays[name], index, geometries, sizes)

    def _mask(self, data: memoryview, header: ImageHeader, geometry: Geometry) -> NDArray[Any]:
        assert self._transform is not None
        if not len(data):
            return np.full(self._transform.shape, MASK_PADDING, np.int32)
        mask = decode_mask(data)
        if mask.shape != (header.height, header.width):
            raise DocumentError(
                f"a mask of {mask.shape[::-1]} on an image of {header.width} x {header.height}"
            )
        return move_mask(mask, geometry, self._transform.shape, pad=MASK_PADDING)

    def _instance_masks(
        self,
        name: str,
        column: Ragged,
        index: BatchIndex,
        geometries: Sequence[Geometry],
        sizes: Sequence[tuple[int, int]],
    ) -> Ragged:
        """Run lengths of objects as masks, uint8 [N, H, W], where their pixels went."""
        assert self._transform is not None
        shape = self._transform.shape
        out = np.zeros((len(column.values), *shape), np.uint8)
        at = 0
        for i, (geometry, (height, width)) in enumerate(zip(geometries, sizes, strict=True)):
            texts = column[i]
            counts = [memoryview(texts[j]) for j in range(len(texts))]
            try:
                place_instance_masks(counts, height, width, geometry, out[at : at + len(counts)])
            except DocumentError as error:
                raise ShardError(
                    f"{self._store.url}: row {index.rows[i]}: column {name!r}: {error}"
                ) from error
            at += len(counts)
        return Ragged(out, column.offsets)

    def _move(self, arrays: dict[str, Any], geometries: Sequence[Geometry]) -> None:
        """Move boxes and keypoints; boxes of which nothing is left go, with their classes."""
        columns = self._columns
        for name in columns.points:
            ragged = arrays[name]
            mirrored = columns.mirrored[name]
            if mirrored is None:
                moved = [move_points(ragged[i], one) for i, one in enumerate(geometries)]
            else:
                moved = [move_keypoints(ragged[i], one, mirrored) for i, one in enumerate(geometries)]
            arrays[name] = Ragged(np.concatenate(moved) if moved else ragged.values, ragged.offsets)
        for name in columns.boxes:
            ragged = arrays[name]
            pairs = [move_boxes(ragged[i], one) for i, one in enumerate(geometries)]
            keep = np.concatenate([kept for _, kept in pairs]) if pairs else np.empty(0, bool)
            counts = [int(kept.sum()) for _, kept in pairs]
            offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
            before = ragged.offsets
            arrays[name] = Ragged(_joined([boxes for boxes, _ in pairs], 4)[keep], offsets)
            for other in columns.with_boxes if name == columns.boxes[0] else ():
                if not np.array_equal(arrays[other].offsets, before):
                    raise ShardError(
                        f"{self._store.url}: columns {name!r} and {other!r} differ in their numbers of values"
                    )
                values = arrays[other].values
                kept = values.take(np.flatnonzero(keep)) if isinstance(values, Ragged) else values[keep]
                arrays[other] = Ragged(kept, offsets)

    # --- output ---

    def _outputs(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The batch's columns in the order of the store; then what options add."""
        histories: dict[str, Any] = {}
        features = self._columns.features
        if self._interactions is not None:
            histories = output_histories(self._interactions, arrays, self._array)
        outputs: dict[str, Any] = {}
        for name, feature in features.items():
            if name in histories:
                outputs[name] = histories[name]
            elif name in self._columns.tokens:
                outputs |= self._tokens(name, arrays[name], feature)
            else:
                outputs[name] = self._output(arrays[name], feature)
        return outputs | {name: self._array(arrays[name]) for name in arrays if name not in features}

    def _tokens(self, name: str, column: Ragged, feature: Feature) -> dict[str, Any]:
        """A column of tokens, cut and padded as the options say."""
        options = self._output_options
        column = cut_rows(column, options.max_length)
        if not options.padding:
            return {name: self._output(column, feature)}
        arrays, places, padding = model_inputs(
            name, column, pad_id=self._pad_id, multiple_of=options.pad_to_multiple_of
        )
        self._stats.add("pad", items=places)
        self._stats.add("padding", items=padding)
        return {key: self._array(value) for key, value in arrays.items()}

    def _output(self, column: Any, feature: Feature) -> Any:
        if isinstance(column, Ragged):
            if isinstance(feature, Value) and feature.dtype == "string":
                return _texts(column)
            if isinstance(column.values, Ragged):
                return [
                    [row[i].tobytes().decode() for i in range(len(row))]
                    for row in map(column.__getitem__, range(len(column)))
                ]
            return self._array(column.values), self._array(column.offsets.astype(np.int64, copy=False))
        return self._array(column)

    def _array(self, values: NDArray[Any]) -> Any:
        if not self._torch:
            return values
        import torch

        wider = _TORCH_TYPES.get(values.dtype.name)
        return torch.from_numpy(values if wider is None else values.astype(wider))


def _pad_id(store: SampleStore, output: BatchOptions[Any]) -> int:
    if output.pad_id is not None:
        return output.pad_id
    if store.tokenizer is None:
        raise ConfigError(
            f"{store.url}: has no tokenizer, so which id pads its rows is unknown: give pad_id="
        )
    return pad_id_of(store.tokenizer)


def _texts(column: Ragged) -> list[str]:
    return [column[i].tobytes().decode() for i in range(len(column))]


def _joined(parts: Sequence[NDArray[Any]], size: int) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty((0, size), np.float32)


def _as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = pixels if pixels.ndim == 3 else pixels[:, :, None]
    return np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey
