"""Names and types of a store's columns <-> JSON in the manifest, and Arrow's fields."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from headrace.errors import ConfigError
from headrace.store.arrow.writer import Field

NUMBERS: Final = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
TOKEN_DTYPES: Final = ("uint16", "uint32")
MAX_COLUMNS: Final = 1024
MAX_ARRAY_VALUES: Final = 1 << 28
MAX_NAMES: Final = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Value:
    """One number or string a row.

    >>> Value("float32"), Value("string")
    (Value(dtype='float32'), Value(dtype='string'))
    """

    dtype: str
    """int8 to int64, uint8 to uint64, float16 to float64, string (UTF-8) or binary."""

    def __post_init__(self) -> None:
        if self.dtype not in (*NUMBERS, "string", "binary"):
            raise ConfigError(
                f"Value({self.dtype!r}): expected one of {', '.join(NUMBERS)}, string or binary"
            )


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """The number of a class, int64; -1 where it is unknown."""

    names: tuple[str, ...]
    """Names of the classes 0, 1, ..."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(set(self.names)) != len(self.names) or not all(isinstance(n, str) for n in self.names):
            raise ConfigError("ClassLabel: expected names that differ from each other")


@dataclass(frozen=True, slots=True)
class Array:
    """An array of one shape in every row."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.dtype not in NUMBERS:
            raise ConfigError(f"Array: dtype is {self.dtype!r}, expected one of {', '.join(NUMBERS)}")
        if not self.shape or any(n < 1 for n in self.shape) or math.prod(self.shape) > MAX_ARRAY_VALUES:
            raise ConfigError(
                f"Array: shape is {self.shape}, expected sizes of 1 or more, up to 2**28 values"
            )


@dataclass(frozen=True, slots=True)
class List:
    """Any number of values in each row: numbers, strings, class numbers or arrays of one shape (boxes)."""

    feature: Value | ClassLabel | Array

    def __post_init__(self) -> None:
        if not isinstance(self.feature, Value | ClassLabel | Array):
            raise ConfigError(f"List: of {self.feature!r}, expected Value, ClassLabel or Array")


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image, as it was read: JPEG, PNG or another format that its first bytes name; empty for none."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Any number of token ids in each row."""

    dtype: str = "uint32"

    def __post_init__(self) -> None:
        if self.dtype not in TOKEN_DTYPES:
            raise ConfigError(f"Tokens: dtype is {self.dtype!r}, expected uint16 or uint32")


Feature: TypeAlias = Value | ClassLabel | Array | List | Image | Tokens
Features: TypeAlias = Mapping[str, Feature]
_CLASSES: Final[Mapping[str, type]] = {
    one.__name__: one for one in (Value, ClassLabel, Array, List, Image, Tokens)
}


def check_features(features: Features) -> dict[str, Feature]:
    """The columns, in their order.

    Raises:
        ConfigError: none, or too many, or a name or type that a store does not have.
    """
    if not 1 <= len(features) <= MAX_COLUMNS:
        raise ConfigError(f"{len(features)} columns, expected 1 to {MAX_COLUMNS}")
    for name, feature in features.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"column {name!r}: expected up to 128 letters, digits, '_', '.', '-', beginning with a letter"
            )
        if not isinstance(feature, tuple(_CLASSES.values())):
            raise ConfigError(f"column {name}: {feature!r}, expected one of {', '.join(_CLASSES)}")
    return dict(features)


def describe_feature(feature: Feature) -> str:
    """A column's type in words.

    >>> describe_feature(List(Array((4,), "float32")))
    'List of Array float32 [4]'
    """
    if isinstance(feature, List):
        return f"List of {describe_feature(feature.feature)}"
    if isinstance(feature, ClassLabel):
        more = f", ... ({len(feature.names)} classes)" if len(feature.names) > 8 else ""
        return f"ClassLabel {', '.join(feature.names[:8])}{more}"
    shape = f" {list(feature.shape)}" if isinstance(feature, Array) else ""
    return f"{type(feature).__name__} {getattr(feature, 'dtype', '')}{shape}".rstrip()


def features_to_json(features: Features) -> dict[str, Any]:
    """Columns as JSON: name -> {"_type": ..., fields}, as `datasets` writes its features."""
    return {name: _feature_to_json(feature) for name, feature in features.items()}


def _feature_to_json(feature: Feature) -> dict[str, Any]:
    value: dict[str, Any] = {"_type": type(feature).__name__}
    if isinstance(feature, ClassLabel):
        value["names"] = list(feature.names)
    elif isinstance(feature, Array):
        value |= {"shape": list(feature.shape), "dtype": feature.dtype}
    elif isinstance(feature, List):
        value["feature"] = _feature_to_json(feature.feature)
    elif isinstance(feature, Value | Tokens):
        value["dtype"] = feature.dtype
    return value


def features_from_json(value: Any) -> dict[str, Feature]:
    """The columns that `features_to_json` wrote.

    Raises:
        ValueError: a type or field that no column has.
    """
    if not isinstance(value, dict):
        raise ValueError(f"features are {type(value).__name__}, expected an object")  # noqa: TRY004  # of a file
    return check_features({name: _feature_from_json(one) for name, one in value.items()})


def _feature_from_json(value: Any) -> Feature:
    fields = dict(value)
    kind = fields.pop("_type", None)
    if kind not in _CLASSES:
        raise ValueError(f"a column of type {kind!r}, expected one of {', '.join(_CLASSES)}")
    if kind == "List":
        fields["feature"] = _feature_from_json(fields["feature"])
    if kind == "Array" and not all(type(size) is int for size in fields["shape"]):
        raise ValueError(f"shape {fields['shape']!r}, expected integers")
    if len(fields.get("names", ())) > MAX_NAMES:
        raise ValueError(f"{len(fields['names'])} class names, expected up to {MAX_NAMES}")
    feature: Feature = _CLASSES[kind](**fields)
    return feature


def number_dtype(feature: Feature) -> np.dtype[Any] | None:
    """The type of a column of numbers, one or an array of one shape a row; None for other columns."""
    if isinstance(feature, ClassLabel):
        return np.dtype(np.int64)
    if isinstance(feature, Array) or (isinstance(feature, Value) and feature.dtype in NUMBERS):
        return np.dtype(feature.dtype).newbyteorder("<")
    return None


def row_shape(feature: Feature) -> tuple[int, ...]:
    """Shape of one row's value in a column of numbers."""
    return feature.shape if isinstance(feature, Array) else ()


def item_feature(feature: Feature) -> Feature:
    """The type of the values of a ragged column."""
    if isinstance(feature, List):
        return feature.feature
    if isinstance(feature, Tokens):
        return Value(feature.dtype)
    return Value("uint8")


def is_bytes(feature: Feature) -> bool:
    """Whether a row's value is bytes: a string, binary, or an encoded image."""
    return isinstance(feature, Image) or (
        isinstance(feature, Value) and feature.dtype in ("string", "binary")
    )


def arrow_field(name: str, feature: Feature) -> Field:
    """Arrow's field of a column."""
    if is_bytes(feature):
        is_text = isinstance(feature, Value) and feature.dtype == "string"
        return Field(name, "utf8" if is_text else "binary")
    if isinstance(feature, Array):
        item = Field("item", feature.dtype)
        return Field(name, "fixed_list", (item,), math.prod(feature.shape))
    if isinstance(feature, List | Tokens):
        return Field(name, "list", (arrow_field("item", item_feature(feature)),))
    dtype = number_dtype(feature)
    assert dtype is not None
    return Field(name, dtype.name)
