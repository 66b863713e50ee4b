"""Rows, or arrays -> columns of a store: one array a column, or values and offsets, checked against its type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, DocumentError
from headrace.store.samples.features import (
    ClassLabel,
    Feature,
    Features,
    Value,
    is_bytes,
    item_feature,
    number_dtype,
    row_shape,
)

MAX_BLOCK_BYTES = 1 << 31
"""Offsets inside a block are 32 bits, with a sign."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """Values of many rows, one row after the other: row i has values[offsets[i] : offsets[i + 1]].

    >>> boxes = Ragged(np.zeros((3, 4), np.float32), np.array([0, 1, 3]))
    >>> len(boxes), boxes[1].shape
    (2, (2, 4))
    """

    values: Any
    """An array [total, ...]; uint8 for strings, binary and images; for lists of strings again a Ragged."""
    offsets: NDArray[np.integer[Any]]
    """[rows + 1], ascending from 0."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Any:
        """The values of a row; of a Ragged of a Ragged, a Ragged."""
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        return self.values.slice(start, stop) if isinstance(self.values, Ragged) else self.values[start:stop]

    def lengths(self) -> NDArray[np.int64]:
        """int64 [rows]: values of each row."""
        offsets = self.offsets.astype(np.int64, copy=False)
        return offsets[1:] - offsets[:-1]

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows [start, stop), with offsets from 0."""
        offsets = self.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        values = (
            self.values.slice(first, last) if isinstance(self.values, Ragged) else self.values[first:last]
        )
        return Ragged(values, offsets - offsets[0])

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """These rows, copied."""
        starts = self.offsets[rows].astype(np.int64)
        lengths = self.lengths()[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        values = self.values.take(places) if isinstance(self.values, Ragged) else self.values[places]
        return Ragged(values, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, in order."""
        lengths = np.concatenate([part.lengths() for part in parts])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        nested = isinstance(parts[0].values, Ragged)
        values = (cls.concatenate if nested else np.concatenate)([part.values for part in parts])
        return cls(values, offsets)

    @classmethod
    def of_bytes(cls, items: Sequence[bytes | bytearray | memoryview]) -> Ragged:
        """One item a row."""
        offsets = np.zeros(len(items) + 1, np.int64)
        np.cumsum([len(item) for item in items], out=offsets[1:])
        return cls(np.frombuffer(b"".join(items), np.uint8), offsets)


Column: TypeAlias = "NDArray[Any] | Ragged"
Columns: TypeAlias = Mapping[str, Column]


def columns_of_rows(
    rows: Sequence[Mapping[str, Any]], features: Features, *, where: str = ""
) -> dict[str, Column]:
    """Columns of rows that are mappings, such as those of a `datasets.Dataset`.

    Args:
        rows: one mapping a row; bytes for images, str for strings, a class's number or name for class labels.
        features: the columns; every row has a value for each.
        where: begins the message of an error.

    Raises:
        DocumentError: a row lacks a value, or has one of another type; names row and column.
    """
    columns: dict[str, Column] = {}
    for name, feature in features.items():
        values = []
        for number, row in enumerate(rows):
            value = row.get(name)
            if value is None:
                raise DocumentError(f"{where}row {number}: no value for the column {name!r} ({feature})")
            values.append(value)
        try:
            columns[name] = _column(values, feature)
        except (ValueError, TypeError, OverflowError) as error:
            raise DocumentError(
                f"{where}column {name!r}: a value is no {feature}: {error}; {_first_bad(values, feature)}"
            ) from error
    return columns


def _first_bad(values: Sequence[Any], feature: Feature) -> str:
    for number, value in enumerate(values):
        try:
            _column([value], feature)
        except (ValueError, TypeError, OverflowError):
            return f"the first is in row {number}: {value!r:.80}"
    return "rows differ in shape"


def _column(values: Sequence[Any], feature: Feature) -> Column:
    if is_bytes(feature):
        return Ragged.of_bytes([_as_bytes(value, feature) for value in values])
    dtype = number_dtype(feature)
    if dtype is None:
        inner = item_feature(feature)
        items = [item for value in values for item in value]
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        return Ragged(_column(items, inner), offsets)
    if isinstance(feature, ClassLabel):
        values = [_class_number(value, feature) for value in values]
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iufb":
        raise TypeError(f"{array.dtype} is no number")
    converted = array.astype(dtype).reshape(len(values), *row_shape(feature))
    is_changed = converted.reshape(array.shape) != array if dtype.kind in "iu" else ~np.isfinite(converted)
    if array.size and dtype.kind in "iu" and bool(np.any(is_changed)):
        raise ValueError(f"a value does not fit {dtype}")
    return converted


def _as_bytes(value: Any, feature: Feature) -> bytes | memoryview:
    if isinstance(feature, Value) and feature.dtype == "string":
        if not isinstance(value, str):
            raise TypeError(f"{type(value).__name__} is no str")
        return value.encode()
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]  # as datasets.Image(decode=False) gives it
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is no bytes")
    return bytes(value)


def _class_number(value: Any, feature: ClassLabel) -> int:
    if isinstance(value, str):
        if value not in feature.names:
            raise ValueError(f"{value!r} is no class of {', '.join(feature.names[:8])}")
        return feature.names.index(value)
    number = int(value)
    if number != value or not -1 <= number < max(len(feature.names), 1):
        raise ValueError(f"class {value} of {len(feature.names)}")
    return number


def check_columns(columns: Columns, features: Features, *, where: str) -> int:
    """Check that columns are those of the features, all of one length.

    Returns:
        The number of rows.

    Raises:
        ConfigError: a column is missing, too many, of another type, shape or length.
    """
    if list(columns) != list(features):
        raise ConfigError(
            f"{where}: columns {', '.join(columns)}; expected {', '.join(features)}, in this order"
        )
    rows = {len(column) for column in columns.values()}
    if len(rows) != 1:
        raise ConfigError(f"{where}: columns of {sorted(rows)} rows; expected one length")
    for name, feature in features.items():
        _check_column(columns[name], feature, where=f"{where}: column {name!r}")
    return rows.pop()


def _check_column(column: Any, feature: Feature, *, where: str) -> None:
    dtype = number_dtype(feature)
    if dtype is not None:
        if (
            not isinstance(column, np.ndarray)
            or column.dtype != dtype
            or column.shape[1:] != row_shape(feature)
        ):
            got = (
                f"{column.dtype} {list(column.shape)}"
                if isinstance(column, np.ndarray)
                else type(column).__name__
            )
            raise ConfigError(
                f"{where}: {got}, expected an array of {dtype} [rows, *{list(row_shape(feature))}]"
            )
        return
    if not isinstance(column, Ragged):
        raise ConfigError(f"{where}: {type(column).__name__}, expected a Ragged (values and offsets)")
    offsets = column.offsets
    if len(offsets) < 1 or int(offsets[0]) != 0 or bool((np.diff(offsets.astype(np.int64)) < 0).any()):
        raise ConfigError(f"{where}: offsets do not ascend from 0")
    if int(offsets[-1]) != len(column.values):
        raise ConfigError(f"{where}: {len(column.values)} values, the last offset is {offsets[-1]}")
    _check_column(column.values, item_feature(feature), where=where)


def row_nbytes(columns: Columns) -> NDArray[np.int64]:
    """int64 [rows]: bytes of each row, over all columns."""
    total: NDArray[np.int64] | None = None
    for column in columns.values():
        nbytes = _row_nbytes(column)
        total = nbytes if total is None else total + nbytes
    assert total is not None
    return total


def _row_nbytes(column: Column) -> NDArray[np.int64]:
    if isinstance(column, Ragged):
        inner = np.zeros(len(column.values) + 1, np.int64)
        np.cumsum(_row_nbytes(column.values), out=inner[1:])
        offsets = column.offsets.astype(np.int64)
        return 4 + inner[offsets[1:]] - inner[offsets[:-1]]
    return np.full(len(column), column.nbytes // max(len(column), 1), np.int64)


def slice_columns(columns: Columns, start: int, stop: int) -> dict[str, Column]:
    """Rows [start, stop) of all columns."""
    return {
        name: column.slice(start, stop) if isinstance(column, Ragged) else column[start:stop]
        for name, column in columns.items()
    }


def concatenate_columns(parts: Iterable[Columns]) -> dict[str, Column]:
    """The rows of all parts, in order."""
    every = list(parts)
    return {name: _concatenate([part[name] for part in every]) for name in every[0]}


def _concatenate(columns: Sequence[Any]) -> Column:
    return Ragged.concatenate(columns) if isinstance(columns[0], Ragged) else np.concatenate(columns)


def value_at(column: Column, row: int, feature: Feature) -> Any:
    """One row's value as Python has it: str for strings, bytes for images, a number, or an array."""
    value = column[row]
    if is_bytes(feature):
        data = value.tobytes()
        return data.decode() if isinstance(feature, Value) and feature.dtype == "string" else data
    if isinstance(value, Ragged):
        inner = item_feature(feature)
        return [value_at(value, i, inner) for i in range(len(value))]
    if number_dtype(feature) is not None and not row_shape(feature):
        return value.item()
    return value


def take_rows(column: Column, rows: NDArray[np.int64]) -> Column:
    """Rows of a column, in the given order; copies."""
    return column.take(rows) if isinstance(column, Ragged) else column[rows]
