"""What is written to a store of samples is what is read: store.py, shard.py, table.py, blocks.py, block.py,
locate.py, commit.py,
features.py, columns.py, manifest.py, index.py, inspect.py.
"""

from __future__ import annotations

import os
import pickle

import numpy as np
import polars as pl
import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fakes import FEATURES, make_samples, same, sample_rows

from headrace.errors import ConfigError, DocumentError, ManifestError, OrderError, StoreError
from headrace.store import (
    Array,
    ClassLabel,
    Image,
    List,
    Ragged,
    SampleStore,
    Store,
    Tokens,
    Value,
    columns_of_rows,
    commit_samples,
    inspect_samples,
    verify_samples,
    write_sample_shard,
)

CODECS = ["none", "lz4", "zstd"]
ROWS = sample_rows(60)


@pytest.fixture(params=CODECS)
def store(request, url):
    make_samples(url, ROWS, sizes=[25, 1, 34], codec=request.param)
    with SampleStore.open(url) as opened:
        yield opened


@pytest.mark.parametrize("url", ["local", "memory"], indirect=True)
def test_rows_of_every_type_are_read_as_they_were_written(store):
    assert (len(store), store.num_shards, dict(store.features)) == (60, 3, FEATURES)
    assert store.num_blocks > 10
    assert all(same(store[i], ROWS[i]) for i in range(60))
    assert same(store[-1], ROWS[-1])
    assert verify_samples(store) == store.nbytes


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 59), max_size=30))
def test_rows_are_gathered_in_any_order(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "gathered"
    if not path.exists():
        make_samples(path, ROWS, sizes=[25, 35])
    with SampleStore.open(path) as store:
        got = store.gather(rows)
        images = store.bytes_of(rows, "image")
    assert got["label"].tolist() == [[0, 1, -1][i % 3] for i in rows]
    assert got["size"].shape == (len(rows), 2, 2)
    for place, row in enumerate(rows):
        assert bytes(images[place]) == got["image"][place].tobytes() == ROWS[row]["image"]
        assert got["boxes"][place].tolist() == [list(map(float, box)) for box in ROWS[row]["boxes"]]
        words = got["words"][place]
        assert [words[i].tobytes().decode() for i in range(len(words))] == ROWS[row]["words"]


def test_the_fingerprint_does_not_depend_on_the_codec(tmp_path):
    prints = set()
    for codec in CODECS:
        make_samples(tmp_path / codec, ROWS, codec=codec)
        prints.add(SampleStore.open(tmp_path / codec).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_arrow_and_polars_read_the_shards(tmp_path, codec):
    make_samples(tmp_path, ROWS, codec=codec)
    table = pyarrow.ipc.open_file(tmp_path / "data/s0.arrow").read_all()
    table.validate(full=True)
    for i, row in enumerate(table.to_pylist()):
        assert row["image"] == ROWS[i]["image"]
        assert (row["name"], row["words"], row["ids"]) == tuple(ROWS[i][k] for k in ("name", "words", "ids"))
        assert row["boxes"] == ROWS[i]["boxes"]
        assert row["size"] == [i, -i, 2, 3]
    assert pl.read_ipc(tmp_path / "data/s0.arrow")["score"].to_list() == [i / 8 for i in range(60)]


def test_a_store_grows_and_its_older_snapshots_stay(tmp_path):
    entries = make_samples(tmp_path, ROWS[:30])
    more = write_sample_shard(tmp_path, "s1", columns_of_rows(ROWS[30:], FEATURES), FEATURES)
    assert commit_samples(tmp_path, [more], features=FEATURES, append=True) == 2
    assert commit_samples(tmp_path, [more], features=FEATURES, append=True) == 2
    assert len(SampleStore.open(tmp_path)) == 60
    assert len(SampleStore.open(tmp_path, snapshot=1)) == 30
    with pytest.raises(ConfigError, match="two shards have one name"):
        commit_samples(tmp_path, entries, features=FEATURES, append=True)
    other = {"label": Value("int64")}
    with pytest.raises(ConfigError, match="its columns are"):
        commit_samples(tmp_path, [more], features=other, append=True)


def test_a_row_larger_than_a_block_has_a_block_of_its_own(tmp_path):
    features = {"image": Image()}
    rows = [{"image": b"x" * size} for size in (10, 5000, 10, 0)]
    make_samples(tmp_path, rows, features=features, block_bytes=100)
    with SampleStore.open(tmp_path) as store:
        assert store.num_blocks == 3
        assert [len(store[i]["image"]) for i in range(4)] == [10, 5000, 10, 0]


def test_a_pickled_store_opens_the_same_snapshot(tmp_path):
    make_samples(tmp_path, ROWS[:30])
    pickled = pickle.dumps(SampleStore.open(tmp_path))
    more = write_sample_shard(tmp_path, "s1", columns_of_rows(ROWS[30:], FEATURES), FEATURES)
    commit_samples(tmp_path, [more], features=FEATURES, append=True)
    assert len(pickle.loads(pickled)) == 30


def test_a_forked_child_reads(tmp_path):
    make_samples(tmp_path, ROWS)
    store = SampleStore.open(tmp_path)
    assert same(store[3], ROWS[3])
    child = os.fork()
    if child == 0:
        os._exit(0 if same(store[40], ROWS[40]) and same(store[3], ROWS[3]) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_blocks_that_are_announced_are_read_once(url):
    make_samples(url, ROWS)
    with SampleStore.open(url) as store:
        store.prefetch(np.arange(60))
        store.gather(np.arange(60))
        store.gather(np.arange(60))
        assert store.stats.snapshot()["decode"].items == store.num_blocks


def test_few_bytes_of_cache_give_the_same_rows(tmp_path):
    make_samples(tmp_path, ROWS, codec="zstd")
    with SampleStore.open(tmp_path, cache_bytes=0) as store:
        assert all(same(store[i], ROWS[i]) for i in (0, 59, 3, 3, 40))


def test_the_two_kinds_of_store_are_told_apart(tmp_path):
    make_samples(tmp_path, ROWS[:2])
    with pytest.raises(ManifestError, match=r"a store of samples, expected one of tokens.*SampleStore\.open"):
        Store.open(tmp_path)
    with pytest.raises(ManifestError, match="not a complete store"):
        SampleStore.open(tmp_path / "none")


def test_wrong_arguments_are_named(tmp_path):
    make_samples(tmp_path, ROWS[:3])
    store = SampleStore.open(tmp_path)
    with pytest.raises(ConfigError, match="no column 'pixels'; the columns are: image"):
        store.gather([0], ["pixels"])
    with pytest.raises(ConfigError, match=r"'label' is .* not bytes"):
        store.bytes_of([0], "label")
    for rows in ([3], [-1]):
        with pytest.raises(OrderError, match="the store has 3"):
            store.gather(rows)
    with pytest.raises(IndexError):
        store[3]
    with pytest.raises(ConfigError, match="cache_bytes"):
        SampleStore.open(tmp_path, cache_bytes=-1)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store[0]


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        (Value("uint8"), 256),
        (Value("int64"), 1.5),
        (Value("float32"), "text"),
        (Value("string"), b"bytes"),
        (Value("string"), 3),
        (Image(), "path"),
        (ClassLabel(("cat",)), "dog"),
        (ClassLabel(("cat",)), 1),
        (Array((2,), "int8"), [1, 2, 3]),
        (List(Array((4,), "float32")), [[1, 2, 3]]),
        (Tokens("uint16"), [70_000]),
        (Value("int64"), None),
    ],
)
def test_a_value_of_another_type_is_named_with_its_row_and_column(feature, value):
    good = {"Value": 1, "ClassLabel": 0, "Image": b"", "Array": [1, 2], "List": [], "Tokens": []}
    first = "" if feature == Value("string") else good[type(feature).__name__]
    with pytest.raises(DocumentError, match=r"column '?c|row 1"):
        columns_of_rows([{"c": first}, {"c": value}], {"c": feature})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Value("bool"),
        lambda: Array((0,), "int8"),
        lambda: Array((2,), "string"),
        lambda: List(List(Value("int8"))),
        lambda: Tokens("int64"),
        lambda: ClassLabel(("a", "a")),
    ],
)
def test_a_type_that_no_column_has_is_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_columns_that_do_not_fit_together_are_refused(tmp_path):
    features = {"a": Value("int64"), "b": List(Value("int8"))}
    good = {"a": np.zeros(2, np.int64), "b": Ragged(np.zeros(3, np.int8), np.array([0, 1, 3]))}
    assert write_sample_shard(tmp_path, "s", good, features).rows == 2
    bad = [
        {"a": good["a"]},
        {**good, "a": np.zeros(3, np.int64)},
        {**good, "a": np.zeros(2, np.int32)},
        {**good, "b": np.zeros(2)},
        {**good, "b": Ragged(np.zeros(3, np.int8), np.array([0, 2, 1]))},
        {**good, "b": Ragged(np.zeros(3, np.int8), np.array([0, 1, 2]))},
        {"a": np.zeros(0, np.int64), "b": Ragged(np.zeros(0, np.int8), np.array([0]))},
    ]
    for columns in bad:
        with pytest.raises(ConfigError, match="shard s"):
            write_sample_shard(tmp_path, "s", columns, features)
    for options in ({"codec": "gzip"}, {"block_bytes": 0}):
        with pytest.raises(ConfigError, match="expected"):
            write_sample_shard(tmp_path, "s", good, features, **options)
    for name in ("", "a b", "x\0"):
        with pytest.raises(ConfigError, match="column"):
            write_sample_shard(tmp_path, "s", {name: good["a"]}, {name: Value("int64")})


def test_a_summary_has_counts_columns_and_rows(tmp_path):
    make_samples(tmp_path, ROWS)
    report = inspect_samples(SampleStore.open(tmp_path), samples=2)
    assert (report.rows, report.num_shards, len(report.samples)) == (60, 1, 2)
    assert report.features["label"] == {"_type": "ClassLabel", "names": ["cat", "dog"]}
    for sample in report.samples:
        assert same(sample.values, ROWS[sample.row])
