"""Columns of some rows <-> the stored bytes of a block: one record batch of an Arrow IPC file, with its metadata."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import lz4.frame
import numpy as np
import zstandard
from numpy.typing import NDArray

from headrace.store.arrow import writer
from headrace.store.arrow.reader import ArrowFileError, BatchLayout, read_batch_layout
from headrace.store.arrow.writer import ALIGNMENT
from headrace.store.codec import ZSTD_LEVEL, DecodeError, decode_into
from headrace.store.samples.columns import Column, Columns, Ragged
from headrace.store.samples.features import (
    Array,
    Feature,
    Features,
    is_bytes,
    item_feature,
    number_dtype,
    row_shape,
)
from headrace.types import Bytes

_LENGTH = struct.Struct("<q")
MAX_RATIO = 1 << 16
"""A forged block must not make a reader allocate more than this many times what it read."""


def buffers_of(columns: Columns, features: Features) -> tuple[list[int], list[Bytes]]:
    """A block's nodes (numbers of values) and raw buffers, in Arrow's order; validity buffers are empty."""
    nodes: list[int] = []
    buffers: list[Bytes] = []
    for name, feature in features.items():
        _add_buffers(columns[name], feature, nodes, buffers)
    return nodes, buffers


def _add_buffers(column: Any, feature: Feature, nodes: list[int], buffers: list[Bytes]) -> None:
    nodes.append(len(column))
    buffers.append(b"")
    if isinstance(column, Ragged):
        buffers.append(np.ascontiguousarray(column.offsets, "<i4").data.cast("B"))
        if is_bytes(feature):
            buffers.append(np.ascontiguousarray(column.values).data.cast("B") if len(column.values) else b"")
        else:
            _add_buffers(column.values, item_feature(feature), nodes, buffers)
        return
    if isinstance(feature, Array):
        nodes.append(column.size)
        buffers.append(b"")
    buffers.append(np.ascontiguousarray(column).reshape(-1).data.cast("B") if column.size else b"")


def encode_block(
    nodes: Sequence[int], buffers: Sequence[Bytes], *, rows: int, codec: str, at: int
) -> list[Bytes]:
    """The stored bytes of a block that begins at byte `at` of its file, as pieces.

    Args:
        nodes: see `buffers_of`.
        buffers: see `buffers_of`.
        rows: of the block.
        codec: none | lz4 | zstd.
        at: a multiple of 8.
    """
    stored = [_encode_buffer(buffer, codec) for buffer in buffers]
    lengths = [len(buffer) for buffer in stored]
    pieces: list[Bytes] = [
        writer.batch_head(at=at, rows=rows, buffers=lengths, columns=0, codec=codec, nodes=nodes)
    ]
    for buffer in stored:
        pieces += [buffer, bytes(-len(buffer) % ALIGNMENT)]
    return pieces


def _encode_buffer(raw: Bytes, codec: str) -> Bytes:
    if codec == "none" or not len(raw):
        return raw
    if codec == "zstd":
        frame: bytes = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(raw)
    else:
        frame = lz4.frame.compress(
            raw, block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, store_size=True
        )
    if len(frame) >= len(raw):
        return _LENGTH.pack(-1) + bytes(raw)
    return _LENGTH.pack(len(raw)) + frame


class SampleBlock:
    """The columns of one block; arrays over its bytes, not copied where it is not compressed."""

    __slots__ = ("columns", "nbytes", "rows")

    def __init__(self, columns: dict[str, Column], rows: int, nbytes: int) -> None:
        self.columns = columns
        self.rows = rows
        self.nbytes = nbytes
        """Bytes in memory, decoded."""


def decode_block(stored: Bytes, features: Features, *, rows: int) -> SampleBlock:
    """The columns of a block.

    Args:
        stored: what `encode_block` returned, in one piece.
        features: of the store.
        rows: that the index says the block has.

    Raises:
        DecodeError: the bytes are no record batch of these columns and rows.
    """
    view = memoryview(stored).cast("B")
    try:
        layout = read_batch_layout(view)
    except (ArrowFileError, struct.error) as error:
        raise DecodeError(str(error)) from error
    if layout.rows != rows:
        raise DecodeError(f"{layout.rows} rows, expected {rows}")
    take = _Taker(view, layout)
    columns = {name: _read_column(feature, rows, take, name) for name, feature in features.items()}
    take.finish()
    return SampleBlock(columns, rows, max(len(view), take.allocated))


class _Taker:
    """Nodes and buffers of a batch, taken in their order."""

    def __init__(self, view: memoryview, layout: BatchLayout) -> None:
        self._view = view
        self._codec = layout.codec
        self._nodes: Iterator[int] = iter(layout.nodes)
        self._buffers: Iterator[tuple[int, int]] = iter(layout.buffers)
        self.allocated = 0

    def node(self, expected: int, name: str) -> None:
        """Take a node.

        Raises:
            DecodeError: there is none, or it has another number of values.
        """
        values = next(self._nodes, None)
        if values != expected:
            raise DecodeError(f"column {name}: {values} values, expected {expected}")

    def buffer(self, nbytes: int | None, name: str) -> memoryview:
        """Take a buffer; of `nbytes` bytes, where they are known."""
        place = next(self._buffers, None)
        if place is None:
            raise DecodeError(f"column {name}: too few buffers")
        stored = self._view[place[0] : place[0] + place[1]]
        if self._codec != "none" and len(stored):
            stored = self._decompressed(stored, name)
        if nbytes is not None and len(stored) != nbytes:
            raise DecodeError(f"column {name}: a buffer of {len(stored)} bytes, expected {nbytes}")
        return stored

    def finish(self) -> None:
        """Check that nothing is left."""
        if next(self._nodes, None) is not None or next(self._buffers, None) is not None:
            raise DecodeError("more columns than the store has")

    def _decompressed(self, stored: memoryview, name: str) -> memoryview:
        if len(stored) < _LENGTH.size:
            raise DecodeError(f"column {name}: {len(stored)} stored bytes")
        (length,) = _LENGTH.unpack_from(stored)
        if length == -1:
            return stored[_LENGTH.size :]
        if not 0 < length <= MAX_RATIO * len(stored):
            raise DecodeError(f"column {name}: declares {length} bytes in {len(stored)} stored ones")
        out = np.empty(length, np.uint8)
        decode_into(stored, self._codec, out.data)
        self.allocated += length
        return out.data


def _read_column(feature: Feature, rows: int, take: _Taker, name: str) -> Column:
    take.node(rows, name)
    take.buffer(0, name)  # validity: absent, as columns have no nulls
    dtype = number_dtype(feature)
    if dtype is not None:
        shape = row_shape(feature)
        values = rows * math.prod(shape)
        if shape:
            take.node(values, name)
            take.buffer(0, name)
        return np.frombuffer(take.buffer(values * dtype.itemsize, name), dtype).reshape(rows, *shape)
    offsets: NDArray[np.int32] = np.frombuffer(take.buffer(4 * (rows + 1), name), "<i4")
    if int(offsets[0]) != 0 or bool((np.diff(offsets) < 0).any()):
        raise DecodeError(f"column {name}: offsets that do not ascend from 0")
    total = int(offsets[-1])
    if is_bytes(feature):
        return Ragged(np.frombuffer(take.buffer(total, name), np.uint8), offsets)
    return Ragged(_read_column(item_feature(feature), total, take, name), offsets)
