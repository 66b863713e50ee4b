"""A loader's batches -> JAX arrays, on one device or sharded over many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.load import Loader


def jax_batches(loader: Loader[Any], *, sharding: Any = None) -> Iterator[dict[str, Any]]:
    """Inputs and labels of each batch of a pass as JAX arrays.

    Tokens are copied in the stored type and widened on the device to int32, JAX's usual integer. With a sharding
    over several processes each process gives its own rows, and the arrays are global.

    Args:
        loader: any; BatchOptions(framework="numpy") spares torch's import. Its `state_dict` is the way to resume.
        sharding: a jax Sharding of [B, T] whose first axis is over data-parallel devices, or a jax.Device; the
            default device where None.

    Yields:
        input_ids, labels: int32 [B, T]; also document_ids, position_ids and cu_seqlens where the loader's options
        ask for them (cu_seqlens is replicated).

    Raises:
        ConfigError: the rows of a batch do not divide over the sharding's devices.
    """
    replicated = (
        NamedSharding(sharding.mesh, type(sharding.spec)()) if isinstance(sharding, NamedSharding) else None
    )
    for batch in loader:
        plain = batch.masked is None and batch.tokens.shape[0] == batch.input_ids.shape[0]
        arrays = {
            "input_ids": _place(batch.tokens[:, :-1] if plain else batch.input_ids, sharding),
            "labels": _place(batch.tokens[:, 1:] if plain else batch.labels, sharding),
        }
        for name in ("document_ids", "position_ids"):
            if (values := getattr(batch, name)) is not None:
                arrays[name] = _place(values, sharding)
        if batch.cu_seqlens is not None:
            arrays["cu_seqlens"] = _place(batch.cu_seqlens, replicated)
        yield arrays


def _place(values: Any, sharding: Any) -> Any:
    # A copy: JAX on a CPU may otherwise keep a view of memory that the loader uses again.
    own = np.array(values)
    try:
        if sharding is not None and jax.process_count() > 1:
            placed = jax.make_array_from_process_local_data(sharding, own)  # type: ignore[no-untyped-call]
        else:
            placed = jax.device_put(own, sharding)
    except ValueError as error:
        raise ConfigError(
            f"jax_batches: an array of shape {own.shape} cannot be placed by {sharding}: {error}. Make batch_size a "
            'multiple of the devices; BatchOptions(last="drop") or "repeat" leaves no shorter last batch'
        ) from error
    return placed.astype(np.int32)
