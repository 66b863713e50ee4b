from __future__ import annotations

import sys

import pytest
import torch

import headrace as hr
from headrace.interop.torchrec import jagged_values, keyed_jagged_tensor


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jagged")
    lines = [f"u{n % 3},i{n % 7},{n // 4},{n % 5},{n}" for n in range(60)]
    (folder / "log.csv").write_text("\n".join(["user,item,time,rating,price", *lines]))
    options = hr.Interactions(features=("rating", "price"))
    hr.ingest(folder / "log.csv", folder / "store", interactions=options)
    store = hr.SampleStore.open(folder / "store")
    return next(hr.Loader(store, batch_size=30, interactions=hr.InteractionOptions(deduplicate=True)))


def test_columns_of_one_type_are_viewed_without_a_copy(batch):
    keys = ["history_times", "history_rating", "history_price"]
    values, lengths = jagged_values(batch, keys)
    assert values.data_ptr() == batch["history_times"][0].data_ptr()
    assert torch.equal(values, torch.cat([batch[key][0] for key in keys]))
    assert lengths.shape == (3, len(batch["history"][1]) - 1)
    assert jagged_values(batch, ["history"])[0].data_ptr() == batch["history"][0].data_ptr()


def test_columns_in_another_order_are_copied(batch):
    keys = ["history_price", "history_times"]
    values, _ = jagged_values(batch, keys)
    assert torch.equal(values, torch.cat([batch[key][0] for key in keys]))


def test_columns_that_do_not_go_together_are_named(batch):
    with pytest.raises(hr.ConfigError, match=r"history torch.int32 of .*, history_times torch.int64"):
        jagged_values(batch, ["history", "history_times"])
    with pytest.raises(hr.ConfigError, match="'user' is no ragged column of torch tensors"):
        jagged_values(batch, ["user"])
    with pytest.raises(hr.ConfigError, match="no keys"):
        jagged_values(batch, [])


def test_torchrec_is_named_where_it_is_absent(batch, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    monkeypatch.setitem(sys.modules, "torchrec.sparse.jagged_tensor", None)
    with pytest.raises(hr.ConfigError, match="pip install torchrec"):
        keyed_jagged_tensor(batch, ["history"])


def test_torchrecs_tensor_has_the_rows_and_the_inverse(batch):
    """Torchrec 1.9.2 with fbgemm-gpu-cpu 1.8.0 gave this; they are no dependency."""
    pytest.importorskip("torchrec")
    keys = ["history_times", "history_rating"]
    tensor = keyed_jagged_tensor(batch, keys)
    assert tensor.keys() == keys
    assert tensor.values().data_ptr() == batch["history_times"][0].data_ptr()
    for key in keys:
        assert torch.equal(tensor[key].values(), batch[key][0])
        assert torch.equal(tensor[key].offsets(), batch[key][1])
    assert torch.equal(tensor.inverse_indices()[1][0], batch["history_inverse"])
