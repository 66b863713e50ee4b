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


def test_each_iteration_is_a_pass_and_after_a_seek_the_rest_of_one(store):
    with Loader(store, seq_len=15, batch_size=4, epochs=1, output=BatchOptions(framework="numpy")) as loader:
        dataset = tf_dataset(loader)
        loader.seek(40)
        sizes = [int(dataset.cardinality())]
        passes = [[int(b["position"][0]) for b in dataset] for _ in range(3)]
        sizes.append(int(dataset.cardinality()))
        assert passes[0] == list(range(40, 99, 4))
        assert [len(one) for one in passes] == [15, 25, 25]
        assert sizes == [15, 25]
        twice = [int(b["position"][0]) for b in dataset.repeat(2)]
    assert len(twice) == 50


# Keras warns so at the end of each later epoch of any dataset whose length it does not know.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_fit_reads_every_epoch_and_every_validation_whole(store):
    arrays = {"seq_len": 15, "batch_size": 4, "epochs": 1}
    output = BatchOptions(framework="numpy", mask_document_starts=True)
    train, test = Loader(store, **arrays, output=output), Loader(store, **arrays, output=output)
    model = tf.keras.Sequential([tf.keras.layers.Embedding(257, 8), tf.keras.layers.Dense(257)])
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100))
    pairs = [tf_dataset(one).map(lambda b: (b["input_ids"], b["labels"])) for one in (train, test)]
    history = model.fit(pairs[0], validation_data=pairs[1], epochs=3, shuffle=False, verbose=0).history
    assert len(history["loss"]) == len(history["val_loss"]) == 3
    assert history["loss"][2] < history["loss"][0]
    assert train.position == test.position == 3 * train.num_rows
    train.close()
    test.close()


def test_documents_come_along_and_rows_can_be_unbatched(store):
    output = BatchOptions(framework="numpy", document_ids=True, position_ids=True)
    options = {"seq_len": 15, "batch_size": 4, "epochs": 1, "output": output}
    rows = [
        row
        for batch in Loader(store, **options)
        for row in zip(batch.document_ids, batch.position_ids, strict=True)
    ]
    with Loader(store, **options) as loader:
        single = list(tf_dataset(loader).unbatch())
    assert len(single) == len(rows)
    for got, (documents, positions) in zip(single, rows, strict=True):
        assert got["document_ids"].numpy().tolist() == documents.tolist()
        assert got["position_ids"].numpy().tolist() == positions.tolist()
    flat = BatchOptions(framework="numpy", padding_free=True, position_ids=True)
    with Loader(store, **(options | {"output": flat})) as loader:
        batch = next(iter(tf_dataset(loader)))
    assert int(batch["cu_seqlens"][-1]) == batch["input_ids"].shape[1] == batch["position_ids"].shape[1]
