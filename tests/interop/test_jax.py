"""JAX arrays hold what the loader delivers, also sharded, and do not change afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ConfigError
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


def test_where_documents_begin_comes_along(store):
    options = {"seq_len": 15, "batch_size": 4, "output": BatchOptions(framework="numpy", cu_seqlens=True)}
    got, want = next(jax_batches(Loader(store, **options))), next(Loader(store, **options))
    assert np.asarray(got["cu_seqlens"]).tolist() == want.cu_seqlens.tolist()


def test_a_device_of_jax_is_taken_here_and_named_where_it_is_not(store):
    device = jax.devices()[0]
    got = next(jax_batches(Loader(store, seq_len=15, batch_size=4), sharding=device))
    assert got["input_ids"].devices() == {device}
    with pytest.raises(ConfigError, match="jax_batches"):
        Loader(store, seq_len=15, batch_size=4, output=BatchOptions(device=device))


UNEVEN = """
import sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
from conftest import CountingStore
from headrace import BatchOptions, ConfigError, Loader
from headrace.interop.jax import jax_batches

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
arrays = BatchOptions(framework="numpy", cu_seqlens=True)
even = next(jax_batches(Loader(CountingStore(), seq_len=15, batch_size=8, output=arrays), sharding=rows))
print(len(even["input_ids"].devices()), len(even["cu_seqlens"].devices()))
try:
    next(jax_batches(Loader(CountingStore(), seq_len=15, batch_size=9, output=arrays), sharding=rows))
except ConfigError as error:
    print(error)
"""


def test_rows_that_do_not_divide_over_the_devices_are_refused_with_the_cure():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", UNEVEN, str(Path(__file__).parent)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.stdout.startswith("2 2\n"), done.stderr
    assert "Make batch_size a multiple of the devices" in done.stdout
