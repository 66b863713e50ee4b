"""A store of interactions and the rows of a batch -> their columns, each distinct history once, and negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from headrace.errors import ConfigError, ManifestError
from headrace.interactions import (
    ITEMS_FILE,
    USERS_FILE,
    InteractionOptions,
    UserItems,
    distinct_rows,
    joined_values,
    read_user_items,
    sample_negatives,
)
from headrace.order import rank_slice
from headrace.store import List, Ragged, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from headrace.load.indices import BatchIndex
    from headrace.store import Feature, SampleStore

HISTORY_ID, INVERSE, NEGATIVES, USER = "history_id", "history_inverse", "negatives", "user"


class InteractionColumns:
    """Which columns of a store of interactions a batch has, and how they are gathered; threads can share it.

    Raises:
        ConfigError: the store has no such columns, or a user with all items.
        ManifestError: a file beside the store is damaged or missing.
    """

    def __init__(
        self,
        store: SampleStore,
        names: Sequence[str],
        options: InteractionOptions,
        *,
        seed: int,
        ranks: tuple[int, int],
    ) -> None:
        self._store, self._options, self._seed, self._ranks = store, options, seed, ranks
        self._needed = {
            *([USER] if options.num_negatives else []),
            *([HISTORY_ID] if options.deduplicate else []),
        }
        for name in sorted(self._needed):
            if store.features.get(name) != Value("int64"):
                option = "num_negatives" if name == USER else "deduplicate"
                raise ConfigError(
                    f"interactions: {option} needs the column {name!r} of int64, and {store.url} has: "
                    f"{', '.join(store.features)}. Make the store by ingest with interactions, rows 'events'"
                )
        self.histories = [name for name in names if is_history(name, store.features[name])]
        self._others = [name for name in names if name not in self.histories]
        self._items = _read_items(store) if options.num_negatives else None

    def gather(self, index: BatchIndex) -> dict[str, Any]:
        """The columns of a rank's rows; with the options' own."""
        options, rows = self._options, index.rows
        found: dict[str, Any] = dict(
            self._store.gather(rows, list(dict.fromkeys([*self._others, *self._needed])))
        )
        extra: dict[str, Any] = {}
        if options.deduplicate:
            firsts, inverse = distinct_rows(found[HISTORY_ID])
            extra[INVERSE], rows = inverse, rows[firsts]
        if self.histories:
            found |= self._store.gather(rows, self.histories)
        if self._items is not None:
            begin, _ = rank_slice(index.global_rows, rank=self._ranks[0], world_size=self._ranks[1])
            positions = index.position + begin + np.arange(len(index.rows))
            extra[NEGATIVES] = sample_negatives(
                self._items, found[USER], positions, seed=self._seed, count=options.num_negatives
            )
        for name in self._needed.difference(self._others):
            del found[name]
        return found | extra

    def buffers(self, arrays: Mapping[str, Any]) -> list[tuple[NDArray[Any], dict[str, tuple[int, int]]]]:
        """The values of history columns of one type in one buffer, and where each column is in it."""
        by_type: dict[str, list[str]] = {}
        for name in self.histories:
            by_type.setdefault(arrays[name].values.dtype.name, []).append(name)
        buffers = []
        for names in by_type.values():
            values, places = joined_values([arrays[name].values for name in names])
            buffers.append((values, dict(zip(names, places, strict=True))))
        return buffers


def is_history(name: str, feature: Feature) -> bool:
    """Whether a column has values of the history of a row: numbers in a list."""
    if not isinstance(feature, List) or (
        isinstance(feature.feature, Value) and feature.feature.dtype == "string"
    ):
        return False
    return name == "history" or name.startswith("history_")


def _read_items(store: SampleStore) -> UserItems:
    """The items of each user, of the files beside the store."""
    jobs = store.extra.get("ingest") or [{}]
    hashes, data = jobs[-1].get("hashes", {}), []
    for path in (USERS_FILE, ITEMS_FILE):
        if path not in hashes:
            raise ConfigError(
                f"interactions: num_negatives needs {path}, which {store.url} has not. Make the store by ingest with "
                "interactions"
            )
        try:
            content = bytes(store.blob.get(path))
        except FileNotFoundError as error:
            raise ManifestError(
                f"{store.url}/{path}: missing. Restore it, or ingest the log again"
            ) from error
        if xxhash.xxh3_128_hexdigest(content) != hashes[path]:
            raise ManifestError(
                f"{store.url}/{path}: its hash is {xxhash.xxh3_128_hexdigest(content)}, the manifest says "
                f"{hashes[path]}. Damaged: restore it, or ingest the log again"
            )
        data.append(content)
    return read_user_items(data[0], data[1], where=store.url)


def output_histories(
    columns: InteractionColumns, arrays: Mapping[str, Any], convert: Any
) -> dict[str, tuple[Any, Any]]:
    """(values, offsets) of each history column; the values of columns of one type lie in one buffer, one after another.

    Args:
        columns: of the batch.
        arrays: what `gather` returned.
        convert: array -> the framework's.
    """
    outputs = {}
    offsets = {id(arrays[name].offsets): arrays[name].offsets for name in columns.histories}
    converted = {key: convert(value.astype(np.int64, copy=False)) for key, value in offsets.items()}
    for values, places in columns.buffers(arrays):
        buffer = convert(values)
        for name, (begin, end) in places.items():
            column: Ragged = arrays[name]
            outputs[name] = (buffer[begin:end], converted[id(column.offsets)])
    return outputs
