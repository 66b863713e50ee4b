"""Options and a store -> the order of its rows, threads, windows: what "auto" and None mean."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from headrace.errors import ConfigError
from headrace.order import RowOrder, Shuffle
from headrace.platform import available_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.load.options import ShuffleOption
    from headrace.load.packing.rows import PackedRows
    from headrace.load.rows import ConcatenatedRows
    from headrace.store import SampleStore, Store

WINDOW_BYTES = 64 << 20
"""Decoded bytes of a default window: 32 Mi tokens of uint16, 16 Mi of uint32. A store's cache of 256 MiB holds
the window that is read and the one that is fetched meanwhile, with the blocks at their edges."""


def is_remote(store: Store | SampleStore) -> bool:
    """Whether blocks come over a network (or from memory://, which is treated alike)."""
    url = os.fspath(store.url)
    return "://" in url and not url.startswith("file://")


def is_mapped(store: Store | SampleStore) -> bool:
    """Whether rows are gathered from mapped files, with nothing to decode or fetch."""
    return store.codec == "none" and not is_remote(store)


def row_order(
    rows: ConcatenatedRows | PackedRows,
    shuffle: ShuffleOption,
    window: int | None,
    *,
    seed: int,
    source: str,
) -> RowOrder:
    """The order of one store's rows.

    Raises:
        ConfigError: an unknown shuffle, or a window for a shuffle that has none.
    """
    shuffle = choose_shuffle(shuffle, rows.store, window)
    if shuffle != "blocks":
        return RowOrder(rows=rows.num_rows, seed=seed, source=source, shuffle=shuffle)
    block_rows = rows.block_rows
    return RowOrder(
        rows=rows.num_rows,
        seed=seed,
        source=source,
        shuffle="blocks",
        block_rows=block_rows,
        window=window or max(1, WINDOW_BYTES // (block_rows * rows.seq_len * rows.store.dtype.itemsize)),
    )


def choose_shuffle(shuffle: ShuffleOption, store: Store | SampleStore, window: int | None) -> Shuffle:
    """What a shuffle option means for a store.

    Raises:
        ConfigError: an unknown shuffle, or a window for a shuffle that has none.
    """
    if shuffle is True:
        shuffle = "auto"
    if shuffle is False:
        shuffle = "none"
    if shuffle == "auto":
        shuffle = "global" if is_mapped(store) else "blocks"
    if shuffle not in ("none", "global", "blocks"):
        raise ConfigError(f'shuffle={shuffle!r}: use "auto", "global", "blocks", "none", True or False')
    if window is not None and shuffle != "blocks":
        raise ConfigError(
            f'window={window} with shuffle="{shuffle}": only shuffle="blocks" has a window. Leave one of them out'
        )
    return shuffle


def windows_ahead(order: RowOrder, store: Store, *, seq_len: int) -> int:
    """Windows of a block shuffle that are announced to a remote store, the one that is read included.

    As many as the store's cache holds, at most two: with three, a server on loopback divided its bandwidth among
    twice as many requests, and rows came at 250 MB/s instead of 330. What does not fit the cache would be fetched
    again, block by block, when it is read. 0 for other shuffles, which have no windows.
    """
    if order.shuffle != "blocks":
        return 0
    # Rows do not end where blocks end: each group of blocks has one block more than its rows fill.
    return max(1, min(2, int(store.cache_rows(seq_len) / (1.05 * order.lookahead))))


def order_name(orders: Sequence[RowOrder]) -> str:
    """The shuffle as a loader's state names it: what must agree when a run is resumed."""
    names = [
        f"blocks:{order.block_rows}x{order.window}" if order.shuffle == "blocks" else order.shuffle
        for order in orders
    ]
    return names[0] if len(set(names)) == 1 else ",".join(names)


def threads_for(stores: Sequence[Store], threads: int | None, *, on_device: bool) -> tuple[int, bool]:
    """Threads that make batches ahead, and whether they do so only while steps are long.

    A mapped batch costs less than handing it from thread to thread, and on one core decoding gains nothing by a
    thread, unless the step takes longer than that. Remote blocks and copies to a device are always made ahead.
    """
    if threads is not None:
        return threads, False
    local = not on_device and not any(is_remote(store) for store in stores)
    if local and (available_cores() == 1 or all(is_mapped(store) for store in stores)):
        return 1, True
    return min(4, available_cores()), False
