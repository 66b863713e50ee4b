"""The least recently used values are dropped; a value in use stays one object."""

from __future__ import annotations

from headrace.store.read.lru import LruCache


def test_a_value_is_made_once_while_it_is_held_and_again_after_it_was_dropped():
    made = []

    def make(key):
        made.append(key)
        return [key]

    cache = LruCache(2, make)
    assert cache.get(1) is cache.get(1)
    cache.get(2)
    cache.get(1)
    cache.get(3)
    assert made == [1, 2, 3]
    cache.get(1)
    assert made == [1, 2, 3]
    cache.get(2)
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2
