"""Blocks and the rows inside them -> one column of these rows, in the order in which they are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.native import kernels
from headrace.store.samples.columns import Column, Ragged, take_rows

_LARGE_ROW: Final = 4096
"""Bytes from which rows of numbers are copied one by one."""


def gather_column(
    name: str,
    groups: Sequence[tuple[Mapping[str, Column], NDArray[np.int64]]],
    places: NDArray[np.int64],
) -> Column:
    """One column of rows of several blocks; copies. In C where values are plain arrays, else in NumPy.

    Args:
        name: of the column.
        groups: for each block its columns, and the rows inside of it; one or more.
        places: int64 [N]: where each of those rows, in their order, is in the result; each place once.
    """
    columns: list[Any] = [found[name] for found, _ in groups]
    native = kernels()
    if not isinstance(columns[0], Ragged):
        return _numbers(columns, [inside for _, inside in groups], places)
    if native is not None and all(_is_plain(column) for column in columns):
        return _in_c(native, columns, [inside for _, inside in groups], places)
    parts: list[Any] = [
        take_rows(column, inside) for column, (_, inside) in zip(columns, groups, strict=True)
    ]
    order = np.empty(len(places), np.int64)
    order[places] = np.arange(len(places))
    return (Ragged.concatenate(parts) if len(parts) > 1 else parts[0]).take(order)


def _numbers(
    columns: Sequence[NDArray[Any]], insides: Sequence[NDArray[np.int64]], places: NDArray[np.int64]
) -> NDArray[Any]:
    first = columns[0]
    out = np.empty((len(places), *first.shape[1:]), first.dtype)
    if out.nbytes < _LARGE_ROW * len(places):
        out[places] = np.concatenate(
            [column[inside] for column, inside in zip(columns, insides, strict=True)]
        )
        return out
    at = iter(places.tolist())
    for column, inside in zip(columns, insides, strict=True):
        for row in inside.tolist():
            out[next(at)] = column[row]  # copied once
    return out


def _is_plain(column: Ragged) -> bool:
    """Whether values are an array without gaps and offsets have 32 bits, as in a block."""
    values, offsets = column.values, column.offsets
    return (
        isinstance(values, np.ndarray)
        and values.flags.c_contiguous
        and 0 not in values.shape[1:]
        and offsets.dtype == np.int32
        and offsets.flags.c_contiguous
    )


def _in_c(
    native: Any, columns: Sequence[Ragged], insides: Sequence[NDArray[np.int64]], places: NDArray[np.int64]
) -> Ragged:
    first = columns[0].values
    shape = first.shape[1:]
    itemsize = first.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    offsets = np.empty(len(places) + 1, np.int64)
    data = native.gather_ragged(
        [column.values for column in columns],
        [column.offsets for column in columns],
        np.fromiter(map(len, insides), np.int64, len(insides)),
        np.concatenate(insides),
        np.ascontiguousarray(places),
        itemsize,
        offsets,
    )
    return Ragged(np.frombuffer(data, first.dtype).reshape(int(offsets[-1]), *shape), offsets)
