"""Batches of samples as arrays of JAX and TensorFlow hold what NumPy's hold, and go on: jax.py, tf.py."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import headrace as hr
from headrace.errors import ConfigError

jax = pytest.importorskip("jax")
tf = pytest.importorskip("tensorflow")
from headrace.interop.jax import jax_batches  # noqa: E402  # after the checks
from headrace.interop.tf import tf_dataset  # noqa: E402

NUMPY = hr.BatchOptions(framework="numpy")
IMAGE = hr.ImageTransform(size=(8, 10), crop="random_resized", flip=0.5)
KINDS = {
    "images": {"image": IMAGE},
    "encoded": {},
    "padded tokens": {
        "columns": ("source", "target", "id"),
        "output": hr.BatchOptions(framework="numpy", padding=True, pad_id=0),
    },
    "interactions": {"interactions": hr.InteractionOptions(num_negatives=2, deduplicate=True)},
}


def loader(request, kind, **options):
    store = request.getfixturevalue("interactions" if kind == "interactions" else "samples")
    return hr.Loader(
        store, **{"batch_size": 8, "seed": 3, "epochs": 1, "output": NUMPY, **KINDS[kind], **options}
    )


def plain(column):
    """A column of any framework as lists of rows."""
    if isinstance(column, tuple):
        values, offsets = map(np.asarray, column)
        return [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    if isinstance(column, list):
        return column
    if isinstance(column, tf.RaggedTensor):
        return column.to_list()
    return np.asarray(column).tolist()


def texts(rows):
    return [
        texts(one) if isinstance(one, list) else one.decode() if isinstance(one, bytes) else one
        for one in rows
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_jax_arrays_hold_every_column_and_go_on_after_a_resume(request, kind):
    expected = list(loader(request, kind))
    first = loader(request, kind)
    batches = [next(iter(jax_batches(first)))]
    again = loader(request, kind)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    batches += jax_batches(again)
    assert len(batches) == len(expected) > 2
    for got, want in zip(batches, expected, strict=True):
        assert got.keys() == set(want)
        for name, column in want.items():
            assert plain(got[name]) == plain(column), name
    values = [one for batch in batches for one in jax.tree.leaves(batch) if not isinstance(one, str)]
    assert all(isinstance(one, jax.Array) for one in values)
    if kind == "images":
        assert (batches[0]["image"].dtype, batches[0]["source"][0].dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tf_dataset_holds_every_column_and_goes_on_after_a_resume(request, kind):
    expected = list(loader(request, kind))
    with loader(request, kind) as first:
        dataset = tf_dataset(first)
        assert int(dataset.cardinality()) == len(expected)
        for got, want in zip(dataset, expected, strict=True):
            assert got.keys() == {*want, "position"}
            for name, column in want.items():
                assert texts(plain(got[name])) == plain(column), name
                assert isinstance(got[name], tf.RaggedTensor) == (
                    isinstance(column, tuple) or (isinstance(column, list) and isinstance(column[0], list))
                )
        first.seek(int(got["position"][0]))  # as a checkpoint of the batch before the last
        (last,) = tf_dataset(first)
    assert texts(plain(last["id" if "id" in last else "user"])) == plain(
        expected[-1]["id" if "id" in last else "user"]
    )
    if kind == "images":
        spec = dataset.element_spec
        assert spec["image"].shape.as_list() == [None, 8, 10, 3]
        assert spec["masks"].shape.as_list() == [None, None, 8, 10]
        assert spec["boxes"].shape.as_list() == [None, None, 4]


def test_torchs_tensors_become_tensors_of_tensorflow_and_jax(samples):
    options = {"batch_size": 30, "image": IMAGE, "shuffle": "none"}
    with hr.Loader(samples, **options) as first, hr.Loader(samples, **options) as second:
        (one,) = tf_dataset(first).take(1)
        two = next(iter(jax_batches(second)))
    assert np.array_equal(one["image"].numpy(), np.asarray(two["image"]))
    assert one["id"].numpy().tolist() == two["id"].tolist() == list(range(30))


def test_an_integer_that_does_not_fit_int32_is_refused_and_not_cut(tmp_path):
    from headrace.store import Value, columns_of_rows, commit_samples, write_sample_shard

    features = {"id": Value("int64")}
    columns = columns_of_rows([{"id": 1}, {"id": 1 << 40}], features)
    commit_samples(tmp_path, [write_sample_shard(tmp_path, "s", columns, features)], features=features)
    with pytest.raises(ConfigError, match=r"column 'id' has 1 to 1099511627776.*jax_enable_x64"):
        next(iter(jax_batches(hr.Loader(hr.SampleStore.open(tmp_path), batch_size=2, output=NUMPY))))


MESH = """
import sys
import jax, numpy as np
import headrace as hr
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from headrace.interop.jax import jax_batches

rows = NamedSharding(Mesh(np.array(jax.devices()), ("dp",)), PartitionSpec("dp", None))
loader = hr.Loader(hr.SampleStore.open(sys.argv[1]), batch_size=8, image=hr.ImageTransform(size=8))
batch = next(iter(jax_batches(loader, sharding=rows)))
print([one.data.shape for one in batch["image"].addressable_shards])
print(batch["label"].sharding.spec == PartitionSpec("dp"))
print(batch["boxes"][0].sharding.is_fully_replicated, len(batch["boxes"][0].devices()))
"""


def test_images_are_placed_over_a_mesh_and_ragged_columns_are_on_every_device(samples):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", MESH, str(samples.url)],
        capture_output=True, text=True, check=False, env=environment, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[(4, 8, 8, 3), (4, 8, 8, 3)]", "True", "True 2"], done.stderr
