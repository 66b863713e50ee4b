"""A loader's batches -> JAX arrays, on one device or sharded over many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.load import Loader


def jax_batches(loader: Loader, *, sharding: Any = None) -> Iterator[dict[str, Any]]:
    """Inputs and labels of each batch as JAX arrays.

    Tokens travel in the stored type and are widened on the device to int32, JAX's usual integer. With a
    sharding over several processes each process gives its own rows, and the arrays are global.

    Args:
        loader: any; framework="numpy" spares torch's import. Its state stays the way to resume.
        sharding: a jax Sharding of [B, T] whose first axis is over data-parallel devices; the default device
            where None.

    Yields:
        input_ids, labels: int32 [B, T]; also document_ids and position_ids where the loader was asked for them.
    """
    for batch in loader:
        plain = batch.masked is None and batch.tokens.shape[0] == batch.input_ids.shape[0]
        found = {
            "input_ids": _place(batch.tokens[:, :-1] if plain else batch.input_ids, sharding),
            "labels": _place(batch.tokens[:, 1:] if plain else batch.labels, sharding),
        }
        for name in ("document_ids", "position_ids"):
            if (values := getattr(batch, name)) is not None:
                found[name] = _place(values, sharding)
        yield found


def _place(values: Any, sharding: Any) -> Any:
    # A copy: JAX on a CPU may otherwise keep a view of memory that the loader uses again.
    own = np.array(values)
    if sharding is not None and jax.process_count() > 1:
        placed = jax.make_array_from_process_local_data(sharding, own)  # type: ignore[no-untyped-call]
    else:
        placed = jax.device_put(own, sharding)
    return placed.astype(np.int32)
