"""JAX arrays hold what the loader delivers, also sharded, and do not change afterwards."""

import numpy as np
import pytest

from headrace.load import BatchOptions, Loader

jax = pytest.importorskip("jax")
from headrace.interop.jax import jax_batches  # noqa: E402  # after the check for jax


def test_arrays_hold_the_loaders_tokens(store):
    kept = list(
        jax_batches(Loader(store, seq_len=15, batch_size=4, epochs=1, output=BatchOptions(framework="numpy")))
    )
    plain = list(Loader(store, seq_len=15, batch_size=4, epochs=1, output=BatchOptions(framework="numpy")))
    for got, want in zip(kept, plain, strict=True):
        assert got["input_ids"].dtype == np.int32
        assert (np.asarray(got["input_ids"]) == want.input_ids).all()
        assert (np.asarray(got["labels"]) == want.labels).all()


def test_masked_labels_and_positions_come_along(store):
    options = {
        "seq_len": 15,
        "batch_size": 20,
        "output": BatchOptions(framework="numpy", mask_document_starts=True, position_ids=True),
    }
    got, want = next(jax_batches(Loader(store, **options))), next(Loader(store, **options))
    assert (want.labels == -100).any()
    assert (np.asarray(got["labels"]) == want.labels).all()
    assert (np.asarray(got["position_ids"]) == want.position_ids).all()


def test_arrays_are_sharded_as_asked(store):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None))
    got = next(jax_batches(Loader(store, seq_len=15, batch_size=4), sharding=sharding))
    assert got["input_ids"].sharding.is_equivalent_to(sharding, 2)
