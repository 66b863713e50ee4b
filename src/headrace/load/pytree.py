"""A batch <-> its arrays and their names: batches as pytrees of torch and of JAX."""

from __future__ import annotations

import sys
from typing import Any

from headrace.load.batch import Batch

_ATTRIBUTES = ("document_ids", "cu_seqlens")
_PLACE = ("position", "epoch", "step", "num_rows", "global_rows")

_registered: set[str] = set()


def register_batches() -> None:
    """Register `Batch` with torch's pytrees and with JAX's, for those of the two that the process has imported."""
    if "torch" not in _registered and "torch.utils._pytree" in sys.modules:
        sys.modules["torch.utils._pytree"].register_pytree_node(
            Batch, _flatten_with_place, _unflatten_with_place, serialized_type_name="headrace.Batch"
        )
        _registered.add("torch")
    if "jax" not in _registered and hasattr(sys.modules.get("jax"), "tree_util"):
        # Without the position: a jitted function would be compiled again for each.
        sys.modules["jax"].tree_util.register_pytree_node(Batch, flatten, unflatten)
        _registered.add("jax")


def flatten(batch: Batch[Any]) -> tuple[list[Any], tuple[Any, ...]]:
    """The arrays, each once, and for each name which of them it is (or the number that it is)."""
    leaves: list[Any] = []
    seen: dict[int, int] = {}
    names: list[tuple[str, int | None, int | None]] = []
    values = [*batch.items(), *((name, getattr(batch, name)) for name in _ATTRIBUTES)]
    for name, value in values:
        if value is None or isinstance(value, int):
            names.append((name, None, value))
            continue
        if id(value) not in seen:
            seen[id(value)] = len(leaves)
            leaves.append(value)
        names.append((name, seen[id(value)], None))
    return leaves, tuple(names)


def unflatten(names: tuple[Any, ...], leaves: Any) -> Batch[Any]:
    """A batch of the leaves, without a position."""
    leaves = list(leaves)
    values = {name: number if leaf is None else leaves[leaf] for name, leaf, number in names}
    attributes = {name: values.pop(name) for name in _ATTRIBUTES}
    batch: Batch[Any] = Batch(values)
    for name, value in attributes.items():
        setattr(batch, name, value)
    batch.max_length = values.get("max_length_q")
    return batch


def _flatten_with_place(batch: Batch[Any]) -> tuple[list[Any], tuple[Any, ...]]:
    leaves, names = flatten(batch)
    return leaves, (names, tuple((name, getattr(batch, name)) for name in _PLACE if hasattr(batch, name)))


def _unflatten_with_place(leaves: Any, context: tuple[Any, ...]) -> Batch[Any]:
    batch = unflatten(context[0], leaves)
    for name, value in context[1]:
        setattr(batch, name, value)
    return batch
