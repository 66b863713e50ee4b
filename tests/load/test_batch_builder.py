"""Labels of stores in which a part of the tokens is given: every learned token is a label once, no other is."""

from __future__ import annotations

import numpy as np
import pytest

import headrace as hr
from headrace.load import BatchOptions, ReadOptions
from headrace.store import Store, commit_store, write_shard
from headrace.tokens import load_tokenizer

BYTE = load_tokenizer("byte")
NUMPY = {"framework": "numpy"}


def conversations(path, count, *, seed, cuts=(0.4, 1.0), plain=False):
    """Documents of random tokens with a random mask, in two shards; the end-of-document id is inside them too.

    Every token but the ends is at a place of its own modulo 251, so that a label can be told from its neighbours.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 60, count)
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    tokens = (np.arange(total) % 251).astype(np.uint16)
    if not plain:
        tokens[rng.integers(0, total, total // 20)] = BYTE.eos_id
    tokens[ends - 1] = BYTE.eos_id
    learned = np.repeat(rng.random(total // 3 + 1) < 0.5, 3)[:total]
    at, entries = 0, []
    for i, cut in enumerate(cuts):
        stop = int(ends[int(cut * count) - 1])
        inside = ends[(ends > at) & (ends <= stop)] - at
        mask = None if plain else learned[at:stop]
        entries.append(write_shard(path, f"s{i}", tokens[at:stop], inside, block_tokens=64, learned=mask))
        at = stop
    commit_store(path, entries, tokenizer=BYTE)
    return Store.open(path), tokens, ends, np.ones(total, np.bool_) if plain else learned


def targets(tokens, ends, learned, *, seq_len, packed):
    """The learned tokens that are a target in one epoch, sorted."""
    target = learned.copy()
    if packed:
        target[np.append(0, ends[:-1])] = False  # a document's first token is no target
        return np.sort(tokens[target])
    rows = (len(tokens) - 1) // seq_len
    target[0] = False
    return np.sort(tokens[: rows * seq_len + 1][target[: rows * seq_len + 1]])


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@pytest.mark.parametrize("seq_len", [7, 64])
def test_every_learned_token_is_a_label_once_in_an_epoch(tmp_path, packing, seq_len):
    store, tokens, ends, learned = conversations(tmp_path, 60, seed=1)
    expected = targets(tokens, ends, learned, seq_len=seq_len, packed=packing == "best_fit")
    for extra in (
        {},
        {"document_ids": True, "position_ids": True},
        {"padding_free": True, "cu_seqlens": True},
    ):
        loader = hr.Loader(
            store,
            seq_len=seq_len,
            batch_size=3,
            epochs=1,
            packing=packing,
            output=BatchOptions(**NUMPY, **extra),
        )
        labels = np.concatenate([batch.labels.ravel() for batch in loader])
        assert np.sort(labels[labels != -100]).tolist() == expected.tolist()
        loader.close()


def test_documents_that_hold_the_end_of_document_id_are_one_document(tmp_path):
    store, tokens, ends, _ = conversations(tmp_path, 60, seed=2)
    loader = hr.Loader(
        store,
        seq_len=100,
        batch_size=4,
        epochs=1,
        shuffle=False,
        output=BatchOptions(**NUMPY, position_ids=True, document_ids=True),
    )
    for batch in loader:
        for row, positions in zip(batch.rows.tolist(), batch.position_ids, strict=True):
            first = row * 100
            inside = ends[(ends > first) & (ends < first + 100)] - first
            assert np.flatnonzero(positions == 0).tolist() == sorted({0, *inside.tolist()})
    assert (tokens[:-1] == BYTE.eos_id).sum() > len(ends)


def test_a_mixture_masks_the_rows_of_the_store_with_spans_only(tmp_path):
    masked, tokens, _, learned = conversations(tmp_path / "a", 60, seed=3)
    plain, *_ = conversations(tmp_path / "b", 60, seed=4, plain=True)
    loader = hr.Loader(
        hr.mix({masked: 0.5, plain: 0.5}),
        seq_len=16,
        batch_size=8,
        epochs=1,
        output=BatchOptions(**NUMPY),
        reading=ReadOptions(threads=0),
    )
    for batch in loader:
        for source, row, labels in zip(batch.sources, batch.rows.tolist(), batch.labels, strict=True):
            if source == 1:
                assert (labels != -100).all()
            else:
                span = slice(row * 16 + 1, row * 16 + 17)
                assert np.where(learned[span], tokens[span].astype(int), -100).tolist() == labels.tolist()


def test_a_run_is_resumed_with_the_same_labels_on_other_ranks(tmp_path):
    store, *_ = conversations(tmp_path, 60, seed=5)
    options = {
        "seq_len": 32,
        "batch_size": 6,
        "seed": 3,
        "packing": "best_fit",
        "output": BatchOptions(**NUMPY),
    }
    whole = hr.Loader(store, **options)
    expected = [next(whole).labels for _ in range(6)]
    first = hr.Loader(store, **options)
    for _ in range(3):
        next(first)
    state = first.state_dict()
    ranks = [hr.Loader(store, rank=rank, world_size=3, **options) for rank in range(3)]
    for rank in ranks:
        rank.load_state_dict(state)
    for batch in expected[3:]:
        assert np.array_equal(np.concatenate([next(rank).labels for rank in ranks]), batch)


def test_a_store_with_another_mask_does_not_take_a_loaders_state(tmp_path):
    one, *_ = conversations(tmp_path / "a", 20, seed=6)
    other, *_ = conversations(tmp_path / "b", 20, seed=6, cuts=(0.5, 1.0))
    state = hr.Loader(one, seq_len=8, batch_size=2).state_dict()
    with pytest.raises(hr.ResumeError):
        hr.Loader(other, seq_len=8, batch_size=2).load_state_dict(state)


def test_no_document_that_fits_a_row_is_cut(tmp_path):
    store, _, ends, _ = conversations(tmp_path, 80, seed=7)
    loader = hr.Loader(
        store,
        seq_len=59,
        batch_size=4,
        epochs=1,
        packing="best_fit",
        output=BatchOptions(**NUMPY, document_ids=True),
    )
    # A batch shows the tokens of a row without its last, so a document's length is found in the plan.
    starts, lengths, _ = loader._rows[0].plan.pieces(np.arange(loader._rows[0].num_rows))
    assert sorted((starts + lengths).tolist()) == ends.tolist()
