"""A log's table -> the interactions of each user in the order of time, after cut-offs, and where each part begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError, DocumentError
from headrace.ingestion.interactions.log import ITEM, TIME, USER, InteractionLog, import_polars, parse_moment
from headrace.store import ClassLabel, Value

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from headrace.ingestion.interactions.options import Interactions, Part

MAX_CATEGORIES = 1 << 20
MAX_ITEMS = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """All interactions, sorted by user, then time, then place in the log. N interactions, U users, I items."""

    user_keys: list[str]
    """The log's name of each user; users are numbered in the order of their names."""
    item_keys: list[str]
    """The log's name of each item, likewise."""
    starts: NDArray[np.int64]
    """[U + 1]: user u has the interactions [starts[u], starts[u + 1])."""
    items: NDArray[np.int32]
    """[N]"""
    times: NDArray[Any]
    """int64 or float64 [N]."""
    features: dict[str, tuple[Value | ClassLabel, NDArray[Any]]]
    """Name -> type, and values [N]."""
    validation_starts: NDArray[np.int64]
    """[U]: first interaction of the validation part of each user."""
    test_starts: NDArray[np.int64]
    """[U]: first interaction of the test part; validation_starts <= test_starts <= starts[1:]."""

    def begin(self, part: Part) -> NDArray[np.int64]:
        """[U]: first interaction of a part."""
        return {"validation": self.validation_starts, "test": self.test_starts}.get(part, self.starts[:-1])

    def end(self, part: Part) -> NDArray[np.int64]:
        """[U]: one past the last interaction of a part."""
        return {"train": self.validation_starts, "validation": self.test_starts}.get(part, self.starts[1:])


def histories_of(log: InteractionLog, options: Interactions, notes: list[str]) -> Histories:
    """Sort, number and split a log.

    Users and items are numbered in the order of their names, which says nothing about the future.

    Args:
        log: all valid rows.
        options: cut-offs, split and features.
        notes: what was left out is appended.

    Raises:
        DocumentError: no interaction is left.
        ConfigError: a feature has too many values, or a moment cannot be read.
    """
    table = log.table
    if not options.keep_duplicates:
        table = table.unique([USER, ITEM, TIME], keep="first", maintain_order=True)
        if table.height < log.table.height:
            notes.append(
                f"{log.table.height - table.height:,} interactions of the same user, item and time were left out"
            )
    table = _cut(table, options, notes)
    if not table.height:
        raise DocumentError(
            f"no interaction is left of {log.table.height:,}: min_user_interactions is "
            f"{options.min_user_interactions}, min_item_interactions {options.min_item_interactions}"
        )
    user_keys, users = _numbered(table[USER])
    item_keys, items = _numbered(table[ITEM])
    if len(item_keys) >= MAX_ITEMS:
        raise ConfigError(f"{len(item_keys):,} items; expected fewer than 2**31")
    pl = import_polars()
    order = (
        pl.DataFrame({"user": users, "time": table[TIME]})
        .with_row_index("row")
        .sort("user", "time", maintain_order=True)["row"]
        .to_numpy()
    )
    starts = np.zeros(len(user_keys) + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=len(user_keys)), out=starts[1:])
    times = np.ascontiguousarray(table[TIME].to_numpy()[order])
    validation, test = _split(starts, times, log, options)
    return Histories(
        user_keys=user_keys,
        item_keys=item_keys,
        starts=starts,
        items=items[order].astype(np.int32),
        times=times,
        features={name: _feature(table[name], name, order) for name in options.features},
        validation_starts=validation,
        test_starts=test,
    )


def _cut(table: pl.DataFrame, options: Interactions, notes: list[str]) -> pl.DataFrame:
    """Leave out rare users and items, again and again until all that are left have enough (the k-core)."""
    if max(options.min_user_interactions, options.min_item_interactions) == 1:
        return table
    users, items = _numbered(table[USER])[1], _numbered(table[ITEM])[1]
    keep = np.ones(len(users), np.bool_)
    while True:
        enough = np.bincount(users[keep], minlength=1) >= options.min_user_interactions
        kept = keep & _taken(enough, users)
        enough = np.bincount(items[kept], minlength=1) >= options.min_item_interactions
        kept &= _taken(enough, items)
        if int(kept.sum()) == int(keep.sum()):
            break
        keep = kept
    if not keep.all():
        left = int(len(keep) - keep.sum())
        notes.append(f"{left:,} interactions of users or items with fewer than the minimum were left out")
    return table.filter(import_polars().Series(keep))


def _taken(flags: NDArray[np.bool_], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The flag of each number; False for numbers beyond the flags."""
    padded = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
    padded[: len(flags)] = flags
    return padded[numbers]


def _numbered(values: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct strings in order, and the number of each value."""
    pl = import_polars()
    keys = values.unique().sort()
    numbers = values.cast(pl.Enum(keys)).to_physical().cast(pl.Int64).to_numpy()
    return keys.to_list(), numbers


def _split(
    starts: NDArray[np.int64], times: NDArray[Any], log: InteractionLog, options: Interactions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First interaction of the validation and of the test part of each user."""
    ends = starts[1:]
    if options.split == "none":
        return ends, ends
    if options.split == "last":
        # A user with fewer than three has no history for each part: all is for training.
        enough = ends - starts[:-1] >= 3
        return ends - 2 * enough, ends - enough
    assert options.test_from is not None
    test_from = parse_moment(options.test_from, dates=log.dates, name="test_from")
    validation_from = test_from
    if options.validation_from is not None:
        validation_from = parse_moment(options.validation_from, dates=log.dates, name="validation_from")
    if validation_from > test_from:
        raise ConfigError(
            f"validation_from is {options.validation_from}, after test_from {options.test_from}"
        )
    first, second = (
        starts[:-1] + np.add.reduceat(times < moment, starts[:-1], dtype=np.int64)
        for moment in (validation_from, test_from)
    )
    return first, second


def _feature(
    values: pl.Series, name: str, order: NDArray[np.int64]
) -> tuple[Value | ClassLabel, NDArray[Any]]:
    """A feature's type and its values in the order of the histories."""
    pl = import_polars()
    if values.dtype == pl.String:
        present = values.filter(values.is_not_null() & (values != ""))
        for kind in (pl.Int64, pl.Float64):
            if len(present) and not present.cast(kind, strict=False).null_count():
                values = values.cast(kind, strict=False)
                break
    if values.dtype == pl.Boolean:
        values = values.cast(pl.Int64)
    if values.dtype.is_integer() and not values.null_count():
        return Value("int64"), values.cast(pl.Int64).to_numpy()[order]
    if values.dtype.is_numeric():
        return Value("float32"), values.cast(pl.Float32).fill_null(float("nan")).to_numpy()[order]
    if values.dtype != pl.String:
        raise ConfigError(
            f"features: column {name!r} holds {values.dtype}; expected numbers, booleans or strings"
        )
    names, numbers = _numbered(values.fill_null(""))
    if len(names) > MAX_CATEGORIES:
        raise ConfigError(
            f"features: column {name!r} has {len(names):,} different strings; expected up to 2**20 categories"
        )
    if names[0] == "":  # no value: -1
        names, numbers = names[1:], numbers - 1
    return ClassLabel(tuple(names)), numbers[order]
