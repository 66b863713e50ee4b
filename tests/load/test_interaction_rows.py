"""Batches of interactions: each distinct history once, negatives, exact resume on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

import headrace as hr
from headrace.interactions import USERS_FILE
from headrace.store import List, Value, columns_of_rows, commit_samples, write_sample_shard

NUMPY = hr.BatchOptions(framework="numpy")
BOTH = hr.InteractionOptions(num_negatives=3, deduplicate=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Twelve users with sessions of four interactions each; a few users have most of them."""
    folder = tmp_path_factory.mktemp("interactions")
    rng = np.random.default_rng(0)
    lines = ["user,item,time,rating"]
    for user in range(12):
        for number in range(60 // (user + 1)):
            lines.append(f"u{user},i{rng.integers(40)},{100 * (number // 4) + number},{number % 5}")
    (folder / "log.csv").write_text("\n".join(lines))
    options = hr.Interactions(features=("rating",), session_gap=9, split="last", part="train")
    hr.ingest(folder / "log.csv", folder / "store", interactions=options)
    return hr.SampleStore.open(folder / "store")


def loader(store, **options):
    return hr.Loader(store, **{"batch_size": 32, "seed": 3, "epochs": 2, "output": NUMPY} | options)


def plain(batch):
    """Arrays of a batch with each history in its own row."""
    inverse = batch.get("history_inverse")
    shown = {}
    for name, value in batch.items():
        if isinstance(value, tuple):
            rows = [value[0][a:b].tolist() for a, b in zip(value[1], value[1][1:], strict=False)]
            is_distinct = inverse is not None and name.startswith("history")
            shown[name] = [rows[i] for i in inverse] if is_distinct else rows
        elif name not in ("history_inverse", "negatives"):
            shown[name] = value.tolist()
    return shown


def test_distinct_histories_and_their_inverse_give_the_batch_without(store):
    repeats = 0
    for once, every in zip(loader(store, interactions=BOTH), loader(store), strict=True):
        assert plain(once) == plain(every)
        distinct = len(once["history"][1]) - 1
        assert distinct == len(set(once["history_id"].tolist()))
        assert [len(once[name][1]) - 1 for name in ("history_times", "history_rating")] == [distinct] * 2
        repeats += len(once["user"]) - distinct
    assert repeats > 50


def test_an_embedding_of_distinct_histories_is_that_of_all(store):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    bag = torch.nn.EmbeddingBag(40, 8, mode="sum", include_last_offset=True)
    options = {"output": hr.BatchOptions(framework="torch")}
    for once, every in zip(
        loader(store, interactions=BOTH, **options), loader(store, **options), strict=True
    ):
        embedded = bag(*once["history"])[once["history_inverse"]]
        assert torch.equal(embedded, bag(*every["history"]))


def test_negatives_are_no_items_of_the_user(store):
    have = {}
    for batch in loader(store, epochs=1):
        for user, item in zip(batch["user"].tolist(), batch["item"].tolist(), strict=True):
            have.setdefault(user, set()).add(item)
    epochs = [[], []]
    for batch in loader(store, interactions=BOTH):
        assert batch["negatives"].shape == (len(batch["user"]), 3)
        for user, row in zip(batch["user"].tolist(), batch["negatives"].tolist(), strict=True):
            assert not have[user] & set(row)
        epochs[batch.epoch] += batch["negatives"].tolist()
    assert sorted(epochs[0]) != sorted(epochs[1])


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_resumed_run_on_other_ranks_reads_the_same(store, world_size):
    whole = loader(store, interactions=BOTH)
    for _ in range(3):
        next(whole)
    state = whole.state_dict()
    ranks = [loader(store, interactions=BOTH, rank=r, world_size=world_size) for r in range(world_size)]
    for rank in ranks:
        rank.load_state_dict(state)
    for _ in range(6):
        expected = next(whole)
        parts = [next(rank) for rank in ranks]
        assert np.array_equal(np.concatenate([p["negatives"] for p in parts]), expected["negatives"])
        merged = [plain(part) for part in parts]
        assert {name: [row for one in merged for row in one[name]] for name in merged[0]} == plain(expected)


def test_columns_that_options_need_are_read_without_being_delivered(store):
    batch = next(loader(store, columns=("history", "item"), interactions=BOTH))
    assert list(batch) == ["history", "item", "history_inverse", "negatives"]


def test_history_columns_of_one_type_lie_in_one_buffer(store):
    batch = next(loader(store, interactions=hr.InteractionOptions()))
    times, ratings = batch["history_times"][0], batch["history_rating"][0]
    assert times.dtype == ratings.dtype == np.int64
    assert times.ctypes.data + times.nbytes == ratings.ctypes.data


def test_a_store_without_the_columns_is_refused(tmp_path, store):
    features = {"item": Value("int64"), "history": List(Value("int32"))}
    columns = columns_of_rows([{"item": 1, "history": [2]}], features)
    commit_samples(tmp_path, [write_sample_shard(tmp_path, "a", columns, features)], features=features)
    other = hr.SampleStore.open(tmp_path)
    with pytest.raises(hr.ConfigError, match="deduplicate needs the column 'history_id' of int64"):
        loader(other, interactions=hr.InteractionOptions(deduplicate=True))
    with pytest.raises(hr.ConfigError, match="num_negatives needs the column 'user'"):
        loader(other, interactions=hr.InteractionOptions(num_negatives=1))
    with pytest.raises(hr.ConfigError, match=r"expected headrace.InteractionOptions"):
        loader(store, interactions=4)


def test_a_damaged_file_of_users_is_an_error(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\na,x,1\nb,y,2\n")
    hr.ingest(tmp_path / "log.csv", tmp_path / "store", interactions=hr.Interactions())
    path = tmp_path / "store" / USERS_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = hr.SampleStore.open(tmp_path / "store")
    with pytest.raises(hr.ManifestError, match=r"users.arrow: its hash is .*, the manifest says"):
        loader(store, interactions=BOTH)
    path.unlink()
    with pytest.raises(hr.ManifestError, match=r"users.arrow: missing"):
        loader(store, interactions=BOTH)
