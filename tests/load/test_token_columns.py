"""Columns of tokens: padded pairs with labels and masks, batches of similar length, the same on any number of ranks:
token_columns.py, sample_rows.py, sample_loader.py.
"""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.errors import ConfigError, ResumeError
from headrace.load.token_columns import cut_rows, model_inputs
from headrace.store import Ragged, Tokens, Value, columns_of_rows, commit_samples, write_sample_shard

FEATURES = {"source": Tokens("uint16"), "target": Tokens("uint16"), "id": Value("uint32")}
ROWS = 203
PADDED = hr.BatchOptions(framework="numpy", padding=True)
GROUPED = hr.ReadOptions(group_by_length=64)


def row(i):
    rng = np.random.default_rng(i)
    length = int(rng.integers(1, 90))
    return {
        "source": rng.integers(1, 200, length).tolist(),
        "target": rng.integers(1, 200, 1 + length * 2 // 3).tolist(),
        "id": i,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    rows = [row(i) for i in range(ROWS)]
    entries = [
        write_sample_shard(
            path, f"s{n}", columns_of_rows(part, FEATURES), FEATURES, block_bytes=2000, codec=codec
        )
        for n, (part, codec) in enumerate(((rows[:120], "none"), (rows[120:], "zstd")))
    ]
    commit_samples(path, entries, features=FEATURES, tokenizer=hr.load_tokenizer("byte"))
    with hr.SampleStore.open(path) as opened:
        yield opened


def loader(store, **options):
    return hr.Loader(
        store, **{"batch_size": 8, "seed": 3, "epochs": 1, "output": PADDED, "reading": GROUPED, **options}
    )


def test_padded_batches_hold_each_row_with_labels_of_minus_100_and_masks(store):
    seen = []
    for batch in loader(store, output=hr.BatchOptions(framework="numpy", padding=True, pad_to_multiple_of=8)):
        assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_attention_mask", "id"}
        assert batch["input_ids"].shape[1] % 8 == 0
        for k, i in enumerate(batch["id"].tolist()):
            whole = row(i)
            for ids, mask, name, fill in (
                ("input_ids", "attention_mask", "source", 256),  # the end of document of bytes
                ("labels", "decoder_attention_mask", "target", -100),
            ):
                n = len(whole[name])
                assert batch[ids][k, :n].tolist() == whole[name]
                assert (batch[ids][k, n:] == fill).all()
                assert batch[mask][k].tolist() == [1] * n + [0] * (batch[ids].shape[1] - n)
            seen.append(i)
    assert sorted(seen) == list(range(ROWS))


def test_columns_of_other_names_are_padded_under_their_own():
    arrays, places, padding = model_inputs(
        "chosen", Ragged(np.array([5, 6, 7], np.uint16), np.array([0, 2, 3])), pad_id=9, multiple_of=1
    )
    assert arrays["chosen_input_ids"].tolist() == [[5, 6], [7, 9]]
    assert arrays["chosen_attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert (places, padding) == (4, 1)


def test_without_padding_rows_come_as_values_and_offsets(store):
    batch = next(loader(store, output=hr.BatchOptions(framework="numpy"), columns=("source", "id")))
    values, offsets = batch["source"]
    for k, i in enumerate(batch["id"].tolist()):
        assert values[offsets[k] : offsets[k + 1]].tolist() == row(i)["source"]


def test_a_row_that_is_cut_keeps_its_last_token(store):
    column = cut_rows(Ragged(np.arange(10), np.array([0, 7, 7, 10])), 3)
    assert [column[i].tolist() for i in range(3)] == [[0, 1, 6], [], [7, 8, 9]]
    for batch in loader(store, output=hr.BatchOptions(framework="numpy", padding=True, max_length=20)):
        assert max(batch["input_ids"].shape[1], batch["labels"].shape[1]) <= 20
        last = [r[m.sum() - 1] for r, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        assert last == [row(i)["source"][-1] for i in batch["id"].tolist()]


def places(batches):
    return [int(i) for batch in batches for i in batch["id"]]


@settings(max_examples=8, deadline=None)
@given(
    shuffle=st.sampled_from(["global", "blocks", "none"]),
    stops=st.lists(st.integers(1, 9), max_size=3),
    worlds=st.lists(st.integers(1, 4), min_size=4, max_size=4),
)
def test_grouped_batches_are_the_same_after_restarts_on_any_number_of_ranks(store, shuffle, stops, worlds):
    whole = places(loader(store, epochs=2, shuffle=shuffle))
    assert sorted(whole[:ROWS]) == sorted(whole[ROWS:]) == list(range(ROWS))
    state, got = None, []
    for batches, world in itertools.zip_longest(stops, worlds[: len(stops) + 1], fillvalue=10_000):
        ranks = [
            loader(
                store, epochs=2, shuffle=shuffle, rank=r, world_size=world, columns=("source", "target", "id")
            )
            for r in range(world)
        ]
        if state is not None:
            for one in ranks:
                one.load_state_dict(json.loads(json.dumps(state)))
        for _ in range(batches):
            parts = [next(one, None) for one in ranks]
            if parts[0] is None:
                break
            got += places(parts)
        state = ranks[0].state_dict()
        assert len({json.dumps(one.state_dict()) for one in ranks}) == 1
        assert len(json.dumps(state)) <= 256
    assert got == whole


def test_grouping_by_length_leaves_less_padding_and_the_share_is_a_number(store):
    shares = []
    for reading in (None, GROUPED, hr.ReadOptions(group_by_length=203)):
        one = loader(store, reading=reading, batch_size=8)
        masks = [batch[name] for batch in one for name in ("attention_mask", "decoder_attention_mask")]
        counted = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)
        assert one.padding_share == pytest.approx(counted)
        shares.append(one.padding_share)
    assert shares[0] > 0.4
    assert shares[2] < shares[1] < 0.5 * shares[0]


def test_a_state_is_of_one_grouping_and_keeps_it_when_the_batch_size_changes(store):
    first = loader(store)
    next(first)
    state = first.state_dict()
    expected = places(first)
    again = loader(store, batch_size=5, reading=hr.ReadOptions(group_by_length=64, group_rows=8))
    again.load_state_dict(state)
    assert places(again) == expected
    copy = pickle.loads(pickle.dumps(loader(store)))
    copy.load_state_dict(state)
    assert places(copy) == expected
    for other in (
        loader(store, batch_size=5),
        loader(store, reading=None),
        loader(store, columns=("source", "id")),
        loader(store, output=hr.BatchOptions(framework="numpy", padding=True, max_length=9)),
    ):
        with pytest.raises(ResumeError, match=r"lengths: .*group_by_length and group_rows"):
            other.load_state_dict(state)
    with pytest.raises(ResumeError, match="lengths"):
        loader(store).load_state_dict(loader(store, reading=None).state_dict())


def test_options_that_make_no_sense_are_refused_by_name(store, tmp_path):
    with pytest.raises(ConfigError, match="padding: of columns of tokens, and there is none among: id"):
        loader(store, columns=("id",))
    with pytest.raises(ConfigError, match="group_by_length=64: no column of tokens among: id"):
        loader(store, columns=("id",), output=hr.BatchOptions(framework="numpy"))
    with pytest.raises(ConfigError, match="give padding=True as well"):
        hr.BatchOptions(pad_id=3)
    with pytest.raises(ConfigError, match="group_rows is of group_by_length"):
        hr.ReadOptions(group_rows=3)
    entry = write_sample_shard(tmp_path, "s0", columns_of_rows([row(0)], FEATURES), FEATURES)
    commit_samples(tmp_path, [entry], features=FEATURES)
    bare = hr.SampleStore.open(tmp_path)
    with pytest.raises(
        ConfigError, match="has no tokenizer, so which id pads its rows is unknown: give pad_id="
    ):
        loader(bare)
    assert next(loader(bare, output=hr.BatchOptions(framework="numpy", padding=True, pad_id=0)))[
        "id"
    ].tolist() == [0]
    with pytest.raises(ConfigError, match=r"column 'id' is Value.*have no lengths"):
        store.lengths([0], ["id"])
    with hr.StoreWriter(tmp_path / "text") as writer:
        writer.extend([{"text": "some text"}])
    for options in ({"output": PADDED}, {"reading": GROUPED}):
        with pytest.raises(ConfigError, match="of columns of tokens in a store of samples"):
            hr.Loader(hr.Store.open(tmp_path / "text"), seq_len=4, batch_size=1, **options)
