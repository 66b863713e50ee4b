"""Every way of reading gives the tokens that were written, whatever the codec, the place and the shards' sizes.

Of store.py, gather.py and source.py.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from store_fakes import make_store, sample_tokens

from headrace.errors import ConfigError, ManifestError, OrderError, StoreError
from headrace.store import Store, token_dtype

CODECS = ["none", "lz4", "zstd"]


def rows_of(tokens, starts, length):
    return tokens[np.asarray(starts)[:, None] + np.arange(length)]


@settings(max_examples=30, deadline=None)
@given(data=some.data())
def test_rows_are_the_tokens_that_were_written(data):
    """Any cut into shards and blocks, any codecs, any starts and lengths, any cache."""
    sizes = data.draw(some.lists(some.integers(1, 300), min_size=1, max_size=6))
    codecs = data.draw(some.lists(some.sampled_from(CODECS), min_size=len(sizes), max_size=len(sizes)))
    dtype = data.draw(some.sampled_from(["uint16", "uint32"]))
    tokens, ends = sample_tokens(sum(sizes), dtype=dtype)
    url = f"memory://rows-{data.draw(some.integers(0, 1 << 60))}"
    block = data.draw(some.integers(1, 80))
    make_store(url, tokens, ends, sizes=sizes, codec=codecs, block_tokens=block)
    cache = data.draw(some.sampled_from([0, 1 << 20]))
    with Store.open(url, cache_bytes=cache) as store:
        check_rows(data, store, tokens, ends)


@settings(max_examples=30, deadline=None)
@given(data=some.data())
def test_rows_of_a_local_store_are_the_tokens_that_were_written(data, tmp_path_factory):
    """The same through the mapping."""
    sizes = data.draw(some.lists(some.integers(1, 300), min_size=1, max_size=6))
    codecs = data.draw(some.lists(some.sampled_from(CODECS), min_size=len(sizes), max_size=len(sizes)))
    dtype = data.draw(some.sampled_from(["uint16", "uint32"]))
    tokens, ends = sample_tokens(sum(sizes), dtype=dtype)
    url = tmp_path_factory.mktemp("rows")
    make_store(url, tokens, ends, sizes=sizes, codec=codecs, block_tokens=data.draw(some.integers(1, 80)))
    verify = data.draw(some.booleans())
    with Store.open(url, cache_bytes=data.draw(some.sampled_from([0, 1 << 20])), verify=verify) as store:
        check_rows(data, store, tokens, ends)


def check_rows(data, store, tokens, ends):
    assert (store.num_tokens, store.num_documents) == (len(tokens), len(ends))
    for _ in range(3):
        length = data.draw(some.integers(1, len(tokens)))
        starts = data.draw(some.lists(some.integers(0, len(tokens) - length), max_size=8))
        if data.draw(some.booleans()):
            store.prefetch(starts, length)
        got = store.gather(starts, length)
        assert got.dtype == tokens.dtype
        assert got.shape == (len(starts), length)
        if starts:
            assert np.array_equal(got, rows_of(tokens, starts, length))
        out = np.full((len(starts), length), 7, tokens.dtype)
        assert store.gather(np.array(starts, np.int64), length, out) is out
        assert np.array_equal(out, got)
    start = data.draw(some.integers(0, len(tokens)))
    stop = data.draw(some.integers(start, len(tokens)))
    assert np.array_equal(store.read(start, stop), tokens[start:stop])
    assert store.document_ends(start, stop).tolist() == ends[(ends > start) & (ends <= stop)].tolist()


@pytest.mark.parametrize("url", ["local", "memory"], indirect=True)
@pytest.mark.parametrize("codec", CODECS)
def test_a_store_says_what_it_is(url, codec):
    tokens, ends = sample_tokens(500)
    entries = make_store(url, tokens, ends, sizes=[200, 300], codec=codec)
    store = Store.open(url)
    assert store.dtype == np.uint16
    assert (store.vocab_size, store.eos_id, store.block_tokens) == (257, 256, 64)
    assert (store.num_shards, store.codec) == (2, codec)
    assert store.nbytes == sum(entry.nbytes for entry in entries)
    assert list(store.shards) == entries
    assert store.shards[-1] == entries[1]
    assert store.tokenizer.name == "byte"
    assert store.tokenizer.fingerprint == store.tokenizer_fingerprint
    assert store.num_rows(10) == 49
    assert store.num_rows(499) == 1
    assert store.num_rows(500) == 0


def test_the_fingerprint_is_of_the_tokens_and_not_of_their_codec(tmp_path):
    tokens, ends = sample_tokens(500)
    prints = []
    for codec in CODECS:
        make_store(tmp_path / codec, tokens, ends, codec=codec)
        prints.append(Store.open(tmp_path / codec).fingerprint)
    assert len(set(prints)) == 1
    tokens[3] ^= 1
    make_store(tmp_path / "other", tokens, ends)
    assert Store.open(tmp_path / "other").fingerprint != prints[0]
    make_store(tmp_path / "ends", tokens, ends[:-1])
    assert Store.open(tmp_path / "ends").fingerprint != Store.open(tmp_path / "other").fingerprint


@pytest.mark.parametrize("codec", CODECS)
def test_a_row_that_leaves_the_stream_is_refused(tmp_path, codec):
    tokens, ends = sample_tokens(500)
    make_store(tmp_path, tokens, ends, codec=codec)
    store = Store.open(tmp_path)
    for starts, length in [
        ([-1], 4),
        ([497], 4),
        ([0, 500], 1),
        ([0], 501),
        ([0], 0),
        ([5, 1 << 62], 1),
        ([(1 << 63) - 1], 1),
        ([-(1 << 62)], 2),
        ([-(1 << 63)], 3),
        ([(1 << 62) + 5], 3),
    ]:
        with pytest.raises(OrderError, match=r"500 tokens|expected at least 1"):
            store.gather(starts, length)
    for start, stop in [(-1, 3), (3, 2), (0, 501)]:
        with pytest.raises(OrderError, match="500"):
            store.read(start, stop)
        with pytest.raises(OrderError, match="500"):
            store.document_ends(start, stop)
    with pytest.raises(OrderError, match="seq_len 0"):
        store.num_rows(0)


def test_an_out_buffer_that_does_not_fit_is_refused(tmp_path):
    tokens, ends = sample_tokens(100)
    make_store(tmp_path, tokens, ends, codec="none")
    store = Store.open(tmp_path)
    for out in [np.empty((2, 4), np.int64), np.empty((3, 4), np.uint16), np.empty((2, 8), np.uint16)[:, ::2]]:
        with pytest.raises(ConfigError, match=r"expected uint16 \[2, 4\] in C order"):
            store.gather([0, 1], 4, out)


@pytest.mark.parametrize("url", ["local", "memory"], indirect=True)
@pytest.mark.parametrize("codec", CODECS)
def test_many_threads_read_the_same_rows_through_a_cache_too_small_for_them(url, codec):
    tokens, ends = sample_tokens(20_000)
    make_store(url, tokens, ends, sizes=[7_000, 13_000], codec=codec, block_tokens=100)
    wrong = []
    with Store.open(url, cache_bytes=2_000) as store:

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(30):
                starts = rng.integers(0, 20_000 - 150, 16)
                if not np.array_equal(store.gather(starts, 150), rows_of(tokens, starts, 150)):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_pickled_store_reads_the_snapshot_that_the_first_one_read(tmp_path):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends)
    store = Store.open(tmp_path)
    make_store(tmp_path, tokens[:100], ends[ends <= 100], prefix="more", append=True)
    again = pickle.loads(pickle.dumps(store))
    assert (again.num_tokens, again.fingerprint) == (300, store.fingerprint)
    assert np.array_equal(again.read(0, 300), tokens)
    assert Store.open(tmp_path).num_tokens == 400


def _child(store, connection):
    connection.send(store.gather([0, 150], 100).tolist())
    store.close()
    connection.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_forked_child_reads_while_its_parent_holds_threads_and_locks(tmp_path, codec):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends, codec=codec)
    store = Store.open(tmp_path)
    store.gather([0], 10)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=_child, args=(store, theirs))
    child.start()
    assert mine.poll(60)
    assert mine.recv() == rows_of(tokens, [0, 150], 100).tolist()
    child.join()
    assert child.exitcode == 0
    assert np.array_equal(store.gather([5], 10)[0], tokens[5:15])


def test_a_closed_store_refuses_and_what_it_gave_stays_valid(tmp_path):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends, codec="none")
    with Store.open(tmp_path) as store:
        rows = store.gather([0, 100], 50)
        part = store.read(0, 300)
    assert np.array_equal(rows, rows_of(tokens, [0, 100], 50))
    assert np.array_equal(part, tokens)
    with pytest.raises(StoreError, match="closed; open it again"):
        store.read(0, 1)
    store.close()


def test_a_directory_without_a_manifest_is_not_a_store(tmp_path):
    with pytest.raises(ManifestError, match=r"no manifest\.json, so this is not a complete store"):
        Store.open(tmp_path / "nothing")
    tokens, ends = sample_tokens(300)
    make_store(tmp_path / "store", tokens, ends)
    (tmp_path / "store" / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="Run the same ingest command again"):
        Store.open(tmp_path / "store")


def test_opening_touches_no_shard(tmp_path):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends)
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    store = Store.open(tmp_path)
    assert store.num_tokens == 300
    with pytest.raises(StoreError, match="missing"):
        store.read(0, 1)


@pytest.mark.parametrize(
    ("vocab", "dtype"), [(1, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (1 << 32, "uint32")]
)
def test_ids_are_stored_in_the_smallest_type_that_holds_them(vocab, dtype):
    assert token_dtype(vocab) == dtype


@pytest.mark.parametrize("vocab", [0, -1, (1 << 32) + 1])
def test_a_vocabulary_that_no_type_holds_is_refused(vocab):
    with pytest.raises(ConfigError, match="1 to 2"):
        token_dtype(vocab)
