"""A key -> its value, made when first asked for; the least recently used are forgotten."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """At most `capacity` values; safe for threads, which may at worst make the same value twice."""

    def __init__(self, capacity: int, make: Callable[[int], Value]) -> None:
        self._capacity = capacity
        self._make = make
        self._values: OrderedDict[int, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int) -> Value:
        """The key's value."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
                return found
        value = self._make(key)
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._values)
