"""What was asked for and what a store is -> how its rows are shuffled and read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from headrace.errors import ConfigError
from headrace.order.stream import RowOrder, Shuffle
from headrace.platform import available_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.load.packing.rows import PackedRows
    from headrace.load.rows import ConcatenatedRows
    from headrace.store import Store

ShuffleChoice = Shuffle | Literal["auto"] | bool

WINDOW_BYTES = 64 << 20
"""Decoded bytes of a default window: 32 Mi tokens of uint16, 16 Mi of uint32. A store's cache of 256 MiB holds
the one that is read and the one that is fetched meanwhile, tails and edges of blocks included."""


def check_options(
    *,
    seq_len: int,
    batch_size: int,
    prefetch: int,
    threads: int | None,
    epochs: int | None,
    last: str,
    packing: str | None,
) -> None:
    """Refuse options of a loader that are wrong whatever the store is; see `Loader`.

    Raises:
        ConfigError: out of range, or an unknown name.
    """
    if seq_len < 1 or batch_size < 1 or prefetch < 1 or (threads is not None and threads < 0):
        raise ConfigError(
            f"seq_len={seq_len}, batch_size={batch_size}, prefetch={prefetch}: each must be at least 1, "
            f"and threads={threads} at least 0"
        )
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs={epochs}: at least 1, or None for an endless run")
    if last not in ("keep", "drop", "repeat"):
        raise ConfigError(f'last={last!r}: use "keep", "drop" or "repeat"')
    if packing not in (None, "none", "best_fit"):
        raise ConfigError(f'packing={packing!r}: use None or "best_fit"')


def is_remote(store: Store) -> bool:
    """Whether blocks come over a network (or from memory://, which stands for it)."""
    url = os.fspath(store.url)
    return "://" in url and not url.startswith("file://")


def is_mapped(store: Store) -> bool:
    """Whether rows are gathered from mapped files, with nothing to decode or fetch."""
    return store.codec == "none" and not is_remote(store)


def row_order(
    rows: ConcatenatedRows | PackedRows,
    shuffle: ShuffleChoice,
    window: int | None,
    *,
    seed: int,
    source: str,
) -> RowOrder:
    """The order of one store's rows.

    Raises:
        ConfigError: an unknown shuffle, or a window that is none.
    """
    if shuffle is True:
        shuffle = "auto"
    if shuffle is False:
        shuffle = "none"
    if shuffle == "auto":
        shuffle = "global" if is_mapped(rows.store) else "blocks"
    if shuffle not in ("none", "global", "blocks"):
        raise ConfigError(f'shuffle={shuffle!r}: use "auto", "global", "blocks" or "none"')
    if window is not None and (window < 1 or shuffle != "blocks"):
        raise ConfigError(
            f'window={window} with shuffle="{shuffle}": a window is at least 1, and for "blocks"'
        )
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


def windows_held(order: RowOrder, store: Store, *, seq_len: int) -> int:
    """Windows of a block shuffle that a remote store should be asked for, the one that is read included.

    As many as its cache holds, at most two: with three, a server on loopback shared itself among twice as many
    requests, and rows came at 250 MB/s instead of 330. What does not fit would be fetched block by block when it
    is needed. 0 where there are no windows.
    """
    if order.shuffle != "blocks":
        return 0
    # Each group of blocks has one block more than its rows fill.
    return max(1, min(2, int(store.cache_rows(seq_len) / (1.05 * order.lookahead))))


def order_name(orders: Sequence[RowOrder]) -> str:
    """What of the shuffle must agree when a run is resumed."""
    names = [
        f"blocks:{order.block_rows}x{order.window}" if order.shuffle == "blocks" else order.shuffle
        for order in orders
    ]
    return names[0] if len(set(names)) == 1 else ",".join(names)


def threads_for(stores: Sequence[Store], threads: int | None, *, on_device: bool) -> tuple[int, bool]:
    """Threads that make batches ahead, and whether they do so only while steps are long.

    A mapped batch costs less than handing it over, and on one core decoding gains nothing by it, unless a step would
    wait for them. Remote blocks are always fetched ahead, and copies to a device are always under way ahead.
    """
    if threads is not None:
        return threads, False
    local = not on_device and not any(is_remote(store) for store in stores)
    if local and (available_cores() == 1 or all(is_mapped(store) for store in stores)):
        return 1, True
    return min(4, available_cores()), False
