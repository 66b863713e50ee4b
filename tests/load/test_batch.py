"""batch.py, batch_builder.py, pytree.py: a batch is a mapping that models take; it is moved, copied and pickled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, MutableMapping

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.load import Batch, BatchOptions, Loader

torch = pytest.importorskip("torch")
OPTIONS = {"seq_len": 15, "batch_size": 4, "seed": 3}
ALL = BatchOptions(position_ids=True, document_ids=True, cu_seqlens=True, padding_free=True)


@pytest.fixture
def batch(store):
    return next(Loader(store, **OPTIONS))


@pytest.fixture
def flat(store):
    return next(Loader(store, **OPTIONS, output=ALL))


def test_it_is_a_mapping_of_what_models_take(batch, flat):
    assert isinstance(batch, Mapping)
    assert isinstance(batch, MutableMapping)
    assert list(batch) == ["input_ids", "labels", "shift_labels"]
    assert list(flat) == [
        "input_ids", "labels", "shift_labels", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q",
        "max_length_k",
    ]  # fmt: skip
    for one in (batch, flat):
        assert len(one) == len(list(one)) == len(dict(one)) == len(one.keys())
        assert one["input_ids"] is one.input_ids
        assert one["labels"] is one["shift_labels"] is one.labels
        assert "input_ids" in one
        assert "tokens" not in one
        with pytest.raises(KeyError):
            one["tokens"]
    assert flat["position_ids"] is flat.position_ids
    assert flat["max_length_q"] == flat["cu_seq_lens_q"].diff().max()
    assert batch.num_rows == 4


def test_arrays_of_numpy_have_no_second_name_for_labels(store):
    assert list(next(Loader(store, **OPTIONS, output=BatchOptions(framework="numpy")))) == [
        "input_ids",
        "labels",
    ]


def test_a_language_model_of_transformers_gives_the_loss_of_these_labels(store):
    transformers = pytest.importorskip("transformers")
    transformers.set_seed(0)
    shape = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=257, bos_token_id=256, eos_token_id=256,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    gpt = transformers.GPT2LMHeadModel(shape)
    with torch.no_grad():
        for output in (BatchOptions(), BatchOptions(position_ids=True, mask_document_starts=True)):
            batch = next(Loader(store, **OPTIONS, output=output))
            logits = gpt(input_ids=batch.input_ids, position_ids=batch.position_ids).logits
            expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
            assert float(gpt(**batch).loss) == pytest.approx(float(expected), abs=1e-6)


def test_labels_that_are_set_are_those_that_a_model_gets(batch):
    batch["labels"] = batch["labels"].masked_fill(batch["labels"] == 7, -100)
    assert batch["shift_labels"] is batch["labels"] is batch.labels
    assert batch.pop("labels") is not None
    assert "labels" not in batch


def test_it_moves_with_all_that_it_has(flat):
    there = flat.to("meta", non_blocking=True)
    assert {value.device.type for value in there.values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert there.document_ids.device.type == there.cu_seqlens.device.type == "meta"
    assert there["labels"] is there["shift_labels"]
    assert (there.position, there.epoch, there.num_rows) == (flat.position, flat.epoch, flat.num_rows)
    assert flat.input_ids.device.type == "cpu"


def test_arrays_of_numpy_are_not_moved_to_a_torch_device(store):
    batch = next(Loader(store, **OPTIONS, output=BatchOptions(framework="numpy")))
    for move in (lambda: batch.to("cpu"), batch.pin_memory):
        with pytest.raises(ConfigError, match="framework"):
            move()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_is_pinned(batch):
    assert batch.pin_memory()["input_ids"].is_pinned()


@pytest.mark.parametrize("copied", [copy.copy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_a_copy_has_the_same_values_and_place(flat, copied):
    other = copied(flat)
    assert list(other) == list(flat)
    assert all(torch.equal(torch.as_tensor(other[key]), torch.as_tensor(flat[key])) for key in flat)
    assert (other.tokens == flat.tokens).all()
    assert (other.position, other.rows.tolist()) == (flat.position, flat.rows.tolist())
    del other["labels"]
    assert "labels" in flat


def test_torch_maps_over_its_tensors(flat):
    from torch.utils import _pytree as pytree

    leaves, spec = pytree.tree_flatten(flat)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    assert len({id(leaf) for leaf in leaves}) == len(leaves) == 5
    back = pytree.tree_unflatten(leaves, spec)
    assert isinstance(back, Batch)
    assert list(back) == list(flat)
    assert back["labels"] is back["shift_labels"] is flat["labels"]
    assert back.position == flat.position
    moved = pytree.tree_map(lambda tensor: tensor.to("meta"), flat)
    assert moved.document_ids.device.type == moved["input_ids"].device.type == "meta"


def test_jax_maps_over_its_arrays_and_compiles_once(store):
    jax = pytest.importorskip("jax")
    compiled = 0

    @jax.jit
    def total(batch):
        nonlocal compiled
        compiled += 1
        return batch["input_ids"].sum() + batch["labels"].sum()

    loader = Loader(store, **OPTIONS, output=BatchOptions(framework="numpy"))
    for batch in (next(loader), next(loader)):
        assert int(total(batch)) == batch.input_ids.sum() + batch.labels.sum()
    assert compiled == 1
    assert isinstance(jax.tree.map(jax.numpy.asarray, batch), Batch)


def test_a_batch_of_other_arrays_has_no_position(batch):
    other = Batch({"input_ids": batch.input_ids})
    assert list(other) == ["input_ids"]
    assert repr(other) == "Batch(input_ids)"
    with pytest.raises(AttributeError):
        other.position  # noqa: B018


def test_batches_compare_by_identity(store):
    one, two = (next(Loader(store, **OPTIONS)) for _ in range(2))
    assert one == one  # noqa: PLR0124
    assert one != two
    assert len({one, two}) == 2


def test_np_arrays_are_those_of_the_tokens(store):
    batch = next(Loader(store, **OPTIONS, output=BatchOptions(framework="numpy")))
    assert (np.asarray(batch["input_ids"]) == batch.tokens[:, :-1]).all()
