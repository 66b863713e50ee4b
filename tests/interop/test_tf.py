"""A tf.data.Dataset holds what the loader delivers, and knows its length."""

import pytest

from headrace.load import BatchOptions, Loader

tf = pytest.importorskip("tensorflow")
from headrace.interop.tf import tf_dataset  # noqa: E402  # after the check for TensorFlow


def test_a_dataset_holds_the_loaders_batches(store):
    plain = list(Loader(store, seq_len=15, batch_size=4, epochs=1, output=BatchOptions(framework="numpy")))
    with Loader(store, seq_len=15, batch_size=4, epochs=1, output=BatchOptions(framework="numpy")) as loader:
        dataset = tf_dataset(loader)
        assert int(dataset.cardinality()) == len(plain)
        for got, want in zip(dataset, plain, strict=True):
            assert got["input_ids"].dtype == tf.int64
            assert (got["input_ids"].numpy() == want.input_ids).all()
            assert (got["labels"].numpy() == want.labels).all()
            assert got["position"].numpy().tolist() == [want.position] * len(want.tokens)


def test_an_endless_loader_is_an_endless_dataset(store):
    with Loader(store, seq_len=15, batch_size=4, output=BatchOptions(framework="numpy")) as loader:
        positions = [int(batch["position"][0]) for batch in tf_dataset(loader).take(60)]
    assert positions == list(range(0, 240, 4))
