"""Batches that are kept -> whether a loader writes new batches into the memory of earlier ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

_MAX_LEAVES: Final = 256


def share_memory(batches: list[Any]) -> bool:
    """Whether two of the batches are the same object or have an array at the same address.

    The batches must all be referred to: the memory of one that was dropped may be used again by right.
    """
    known: set[int] = set()
    for batch in batches:
        addresses = _addresses(batch)
        if addresses & known:
            return True
        known |= addresses
    return False


def _addresses(value: Any) -> set[int]:
    found: set[int] = set()
    pending = [value]
    while pending and len(found) < _MAX_LEAVES:
        one = pending.pop()
        if isinstance(one, str | bytes | int | float | bool | type(None)):
            continue
        if isinstance(one, Mapping):
            pending += list(one.values())
            found.add(id(one))
        elif isinstance(one, list | tuple):
            pending += list(one[:_MAX_LEAVES])
            if one:  # () is one object
                found.add(id(one))
        elif (address := _array_address(one)) is not None:
            found.add(address)
        elif dataclasses.is_dataclass(one) and not isinstance(one, type):
            pending += [getattr(one, field.name, None) for field in dataclasses.fields(one)]
            found.add(id(one))
        else:
            found.add(id(one))
    return found


def _array_address(one: Any) -> int | None:
    """Where an array's or a tensor's data is; None of other things, and of empty ones."""
    if hasattr(one, "data_ptr"):
        try:
            return int(one.data_ptr()) or None
        except RuntimeError:  # a tensor without storage
            return None
    interface = getattr(one, "__array_interface__", None)
    if isinstance(interface, dict) and one.size:
        return int(interface["data"][0])
    return None
