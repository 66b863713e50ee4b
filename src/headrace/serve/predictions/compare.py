"""Keys of rows -> positions of the rows with the same keys in another store.

An index is 16 bytes a row: the keys' hashes, sorted, and their positions. A hash that two keys share is found out when
the row is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.sink import Part, decode_part

KEY = ["prompt_id", "sample_index"]
MAX_ROWS = 4_000_000


class KeyIndex:
    """Key -> position in one store.

    Args:
        hashes: of the keys, in the order of the positions.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def positions(self, batch: pa.RecordBatch) -> list[int | None]:
        """Position for each row of a batch; None where no row has its key."""
        hashes = _hashes(batch)
        if not len(self._sorted):
            return [None] * len(hashes)
        places = np.searchsorted(self._sorted, hashes)
        places[places == len(self._sorted)] = 0
        known = self._sorted[places] == hashes
        return [
            int(self._order[place]) if found else None for place, found in zip(places, known, strict=True)
        ]


def build_index(parts: Iterable[Part], *, rows: int, name: str) -> KeyIndex:
    """Read the keys of a store.

    Raises:
        ConfigError: the store has too many rows to be compared here.
    """
    if rows > MAX_ROWS:
        raise ConfigError(
            f"{name}: {rows:,} rows; the page compares up to {MAX_ROWS:,}. Join the stores with "
            "headrace.read_predictions."
        )
    hashes = [_hashes(batch) for part in parts for batch in decode_part(part, columns=KEY)]
    return KeyIndex(np.concatenate(hashes) if hashes else np.empty(0, np.uint64))


def rows_at(
    parts: Sequence[Part], positions: Iterable[int], columns: Sequence[str]
) -> Mapping[int, dict[str, Any]]:
    """Rows at some positions of a store, by position; each part is read once."""
    starts, total = [], 0
    for part in parts:
        starts.append(total)
        total += part.rows - len(part.superseded)
    by_part: dict[int, list[int]] = {}
    for position in sorted(set(positions)):
        if position < total:
            by_part.setdefault(bisect_right(starts, position) - 1, []).append(position)
    rows: dict[int, dict[str, Any]] = {}
    for number, there in by_part.items():
        first, left = starts[number], list(there)
        for batch in decode_part(parts[number], columns=list(columns)):
            while left and left[0] < first + batch.num_rows:
                position = left.pop(0)
                (rows[position],) = batch.slice(position - first, 1).to_pylist()
            first += batch.num_rows
            if not left:
                break
    return rows


def keys_of(batch: pa.RecordBatch) -> list[tuple[str, int]]:
    """(prompt_id, sample_index) of each row."""
    return list(zip(*(batch.column(name).to_pylist() for name in KEY), strict=True))


def _hashes(batch: pa.RecordBatch) -> NDArray[np.uint64]:
    return np.fromiter(
        (
            xxhash.xxh3_64_intdigest(f"{sample}\0{prompt_id}".encode("utf-8", "surrogatepass"))
            for prompt_id, sample in keys_of(batch)
        ),
        np.uint64,
        batch.num_rows,
    )
