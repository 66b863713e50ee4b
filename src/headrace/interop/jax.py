"""A loader's batches -> JAX arrays, on one device or sharded over many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from headrace.errors import ConfigError
from headrace.load import SampleLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.load import Loader


def jax_batches(loader: Loader[Any], *, sharding: Any = None) -> Iterator[dict[str, Any]]:
    """Each batch of a pass as JAX arrays: inputs and labels of text, or the columns of samples.

    Tokens are copied in the stored type and widened on the device to int32, JAX's usual integer. With a sharding
    over several processes each process gives its own rows, and the arrays are global.

    Args:
        loader: any; BatchOptions(framework="numpy") spares torch's import. Its `state_dict` is the way to resume.
        sharding: a jax Sharding of [B, ...] whose first axis is over data-parallel devices, or a jax.Device; the
            default device where None.

    Yields:
        Of text: input_ids, labels: int32 [B, T]; also document_ids, position_ids and cu_seqlens where the loader's
        options ask for them (cu_seqlens is replicated).

        Of samples: the batch's columns in their stored types, tokens as int32, [B, ...] placed by `sharding`. Ragged
        columns are (values, offsets): replicated, or, with several processes, the process's own on its first device,
        because the numbers of values differ. Distinct histories are replicated as well. Texts stay lists of str.

    Raises:
        ConfigError: the rows of a batch do not divide over the sharding's devices; or an int64 does not fit JAX's int32
            while jax_enable_x64 is off.
    """
    if isinstance(loader, SampleLoader):
        yield from _sample_batches(loader, sharding)
        return
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


def _sample_batches(loader: SampleLoader, sharding: Any) -> Iterator[dict[str, Any]]:
    whole, rows = sharding, sharding
    if isinstance(sharding, NamedSharding):
        spec = type(sharding.spec)
        whole = NamedSharding(sharding.mesh, spec())
        rows = NamedSharding(sharding.mesh, spec(*sharding.spec[:1]))
    if sharding is not None and jax.process_count() > 1:
        whole = jax.local_devices()[0]
    tokens = loader.token_outputs
    for batch in loader:
        arrays: dict[str, Any] = {}
        for name, column in batch.items():
            if isinstance(column, list):
                arrays[name] = column
            elif isinstance(column, tuple):
                arrays[name] = tuple(_place_column(name, one, whole, tokens) for one in column)
            else:
                own = rows if len(column) == batch.num_rows else whole
                arrays[name] = _place_column(name, column, own, tokens)
        yield arrays


def _place_column(name: str, values: Any, sharding: Any, tokens: frozenset[str]) -> Any:
    array = np.asarray(values)
    if array.dtype == np.int64 and jax.dtypes.canonicalize_dtype(np.int64) == np.int32 and array.size:
        low, high = int(array.min()), int(array.max())
        if low < -(1 << 31) or high >= 1 << 31:
            raise ConfigError(
                f"jax_batches: column {name!r} has {low} to {high}, and JAX makes int32 of int64: "
                'jax.config.update("jax_enable_x64", True), or leave the column out by columns='
            )
    if name in tokens:
        array = array.astype(np.int32)
    return _put(array, sharding)


def _place(values: Any, sharding: Any) -> Any:
    return _put(values, sharding).astype(np.int32)


def _put(values: Any, sharding: Any) -> Any:
    # A copy: JAX on a CPU may otherwise keep a view of memory that the loader uses again.
    own = np.array(values)
    try:
        if isinstance(sharding, jax.sharding.Sharding) and jax.process_count() > 1:
            placed = jax.make_array_from_process_local_data(sharding, own)  # type: ignore[no-untyped-call]
        else:
            placed = jax.device_put(own, sharding)
    except ValueError as error:
        raise ConfigError(
            f"jax_batches: an array of shape {own.shape} cannot be placed by {sharding}: {error}. Make batch_size a "
            'multiple of the devices; BatchOptions(last="drop") or "repeat" leaves no shorter last batch'
        ) from error
    return placed
