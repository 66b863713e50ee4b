"""A key -> its value, made at its first use; the least recently used values are dropped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """At most `capacity` values; safe for threads, which may at worst make the same value twice."""

    def __init__(self, capacity: int, make: Callable[[int], Value]) -> None:
        self._capacity = capacity
        self._make = make
        self._values: OrderedDict[int, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int) -> Value:
        """The value of a key; made now if it is not held."""
        with self._lock:
            held = self._values.get(key)
            if held is not None:
                self._values.move_to_end(key)
                return held
        value = self._make(key)
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._values)
