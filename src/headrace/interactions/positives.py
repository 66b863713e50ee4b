"""The files beside a store of interactions -> names of users and items, and the items that each user has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from headrace.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.types import Bytes

ITEMS_FILE = "items.arrow"
"""Arrow IPC file with the column item, a string: the name of items 0, 1, ..."""
USERS_FILE = "users.arrow"
"""Arrow IPC file with the columns user, a string, and items, ascending lists of int32: those the user has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserItems:
    """The distinct items of each user, ascending."""

    offsets: NDArray[np.int64]
    """[U + 1]: user u has items[offsets[u] : offsets[u + 1]]."""
    items: NDArray[np.int32]
    num_items: int
    """Items of the store, those of no user included."""
    skipped: NDArray[np.int64]
    """Ascending, as many as items: user * (num_items + 1), plus how many items that the user does not have are below
    this one. With it a negative is found by one binary search."""

    @classmethod
    def of(cls, offsets: NDArray[np.int64], items: NDArray[np.int32], num_items: int) -> UserItems:
        """Of each user's distinct items, ascending.

        >>> UserItems.of(np.array([0, 2]), np.array([1, 3], np.int32), 4).skipped
        array([1, 2])
        """
        lengths = np.diff(offsets)
        users = np.repeat(np.arange(len(lengths)), lengths)
        inside = np.arange(len(items)) - offsets[users]
        return cls(
            offsets=offsets,
            items=items,
            num_items=num_items,
            skipped=users * (num_items + 1) + items.astype(np.int64) - inside,
        )

    def num_negatives(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Items that each user does not have."""
        counts: NDArray[np.int64] = self.num_items - (self.offsets[users + 1] - self.offsets[users])
        return counts


def read_user_items(users_file: Bytes, items_file: Bytes, *, where: str) -> UserItems:
    """The items of each user, of a store's two files.

    Raises:
        ManifestError: a file is no such file.
        ConfigError: a user has all items, so that there is no negative.
    """
    lists = _column(users_file, "items", where=f"{where}/{USERS_FILE}")
    num_items = len(_column(items_file, "item", where=f"{where}/{ITEMS_FILE}"))
    offsets = np.asarray(lists.offsets, np.int64)
    items = np.asarray(lists.values, np.int32)
    full = np.flatnonzero(np.diff(offsets) >= num_items)
    if len(full):
        raise ConfigError(
            f"{where}: user number {full[0]} has all {num_items} items, so there is no negative. Leave "
            "num_negatives out"
        )
    return UserItems.of(offsets, items, num_items)


def read_keys(data: Bytes, *, where: str = "") -> list[str]:
    """The log's names of items or users, of `items.arrow` or `users.arrow`, in the order of their numbers.

    Raises:
        ManifestError: it is no such file.
    """
    keys: list[str] = _column(data, None, where=where).to_pylist()
    return keys


def _column(data: Bytes, name: str | None, *, where: str) -> Any:
    """One column of an Arrow file, the first where no name is given."""
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        column = table.column(0 if name is None else name).combine_chunks()
    except (pa.ArrowException, KeyError) as error:
        raise ManifestError(f"{where}: not a file of ingest: {error}. Ingest the log again") from error
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
