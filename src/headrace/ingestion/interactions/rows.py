"""Histories -> the columns of a store: an interaction a row, or a user a row, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.ingestion.interactions.moments import moments_of
from headrace.store import Column, Feature, List, Ragged, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.ingestion.interactions.histories import Histories
    from headrace.ingestion.interactions.options import Interactions

_ROW_BYTES = 64
"""Bytes of a row beside its history."""


def features_of(histories: Histories, options: Interactions) -> dict[str, Feature]:
    """Columns of the store.

    events: user, item, time, the log's features, history_id, user_events, item_events, and the history as lists:
    history (items), history_times, history_<feature>. users: user, items, times, the features as lists, and for the
    validation and test part the targets.
    """
    time = Value(histories.times.dtype.name)
    kept = {name: feature for name, (feature, _) in histories.features.items()}
    if options.rows == "users":
        lists: dict[str, Feature] = {"items": List(Value("int32")), "times": List(time)}
        lists |= {name: List(feature) for name, feature in kept.items()}
        if options.part in ("validation", "test"):
            lists["targets"] = List(Value("int32"))
        return {"user": Value("int64"), **lists}
    return {
        **dict.fromkeys(("user", "item"), Value("int64")),
        "time": time,
        **kept,
        **dict.fromkeys(("history_id", "user_events", "item_events"), Value("int64")),
        "history": List(Value("int32")),
        "history_times": List(time),
        **{f"history_{name}": List(feature) for name, feature in kept.items()},
    }


def column_pieces(histories: Histories, options: Interactions) -> Iterator[dict[str, Column]]:
    """Columns of consecutive rows, about `shard_bytes` at a time."""
    make = _UserRows if options.rows == "users" else _EventRows
    rows = make(histories, options)
    lengths = rows.ends - rows.begins
    width = 4 + histories.times.itemsize + sum(v.itemsize for _, v in histories.features.values())
    sizes = np.cumsum(_ROW_BYTES + width * lengths)
    start = 0
    while start < len(lengths):
        before = int(sizes[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(sizes, before + options.shard_bytes, "right")))
        yield rows.columns(start, stop)
        start = stop


class _EventRows:
    """One row for each interaction of the part."""

    def __init__(self, histories: Histories, options: Interactions) -> None:
        moments = moments_of(histories, options.session_gap)
        self._histories, self._moments = histories, moments
        lengths = histories.end(options.part) - histories.begin(options.part)
        self._users = np.repeat(np.arange(len(lengths)), lengths)
        self._events = _places(histories.begin(options.part), lengths)
        self.ends = moments.known[self._events]
        self.begins = np.maximum(histories.starts[self._users], self.ends - options.max_history)

    def columns(self, start: int, stop: int) -> dict[str, Column]:
        histories, events = self._histories, self._events[start:stop]
        history = _Slices(self.begins[start:stop], self.ends[start:stop])
        return {
            "user": self._users[start:stop],
            "item": histories.items[events].astype(np.int64),
            "time": histories.times[events],
            **{name: values[events] for name, (_, values) in histories.features.items()},
            "history_id": self._moments.history_ids[events],
            "user_events": self._moments.user_events[events],
            "item_events": self._moments.item_events[events],
            "history": history.of(histories.items),
            "history_times": history.of(histories.times),
            **{f"history_{name}": history.of(values) for name, (_, values) in histories.features.items()},
        }


class _UserRows:
    """One row for each user that the part has something of."""

    def __init__(self, histories: Histories, options: Interactions) -> None:
        self._histories = histories
        begins, ends = histories.begin(options.part), histories.end(options.part)
        self._users = np.flatnonzero(ends > begins)
        self._target_begins, self._target_ends = begins[self._users], ends[self._users]
        self._targets = options.part in ("validation", "test")
        self.ends = self._target_begins if self._targets else self._target_ends
        self.begins = np.maximum(histories.starts[self._users], self.ends - options.max_history)

    def columns(self, start: int, stop: int) -> dict[str, Column]:
        histories = self._histories
        history = _Slices(self.begins[start:stop], self.ends[start:stop])
        columns: dict[str, Column] = {
            "user": self._users[start:stop],
            "items": history.of(histories.items),
            "times": history.of(histories.times),
            **{name: history.of(values) for name, (_, values) in histories.features.items()},
        }
        if self._targets:
            targets = _Slices(self._target_begins[start:stop], self._target_ends[start:stop])
            columns["targets"] = targets.of(histories.items)
        return columns


class _Slices:
    """Slices of arrays, as ragged columns that share their offsets."""

    def __init__(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        lengths = ends - begins
        self._offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=self._offsets[1:])
        self._places = _places(begins, lengths)

    def of(self, values: NDArray[Any]) -> Ragged:
        """The slices of one array."""
        return Ragged(values[self._places], self._offsets)


def _places(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """begins[0], begins[0] + 1, ..., begins[1], ...: `lengths` of each."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(begins - offsets, lengths) + np.arange(int(lengths.sum()))
