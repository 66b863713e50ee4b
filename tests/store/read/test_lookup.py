"""Rows looked up ahead are the rows that gather reads, and never those of a closed store."""

from __future__ import annotations

import numpy as np
import pytest

import headrace as hr
from headrace.errors import StoreError


@pytest.fixture
def store(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {number} of a text, and some more words" for number in range(4_000)))
    hr.ingest([text], tmp_path / "store", tokenizer="byte", codec="none")
    with hr.Store.open(tmp_path / "store") as store:
        yield store


def test_found_rows_are_those_that_gather_reads_once_their_blocks_were_checked(store):
    rng = np.random.default_rng(0)
    starts = rng.integers(0, store.num_tokens - 100, (20, 8))
    found = store.lookup(starts, 100)
    assert found.read(0) is None  # nothing is checked yet, and nothing unchecked is read
    expected = [store.gather(batch, 100) for batch in starts]
    store.read(0, store.num_tokens)
    assert all(np.array_equal(found.read(number), rows) for number, rows in enumerate(expected))


def test_rows_of_a_closed_store_are_not_read_from_what_was_found(store):
    starts = np.arange(16).reshape(2, 8) * 100
    store.read(0, store.num_tokens)
    found = store.lookup(starts, 100)
    assert found.read(0) is not None
    store.close()
    assert found.read(0) is None
    with pytest.raises(StoreError, match="closed"):
        store.gather(starts[0], 100)


def test_a_loader_stops_at_the_first_batch_after_its_store_was_closed(store):
    loader = hr.Loader(store, seq_len=64, batch_size=4, epochs=3)
    for _ in range(loader.num_rows // 4 + 5):  # the second epoch: looked up ahead
        next(loader)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        next(loader)


@pytest.fixture
def zstd(store, tmp_path):
    """The same text, compressed, with a cache of a few blocks."""
    hr.ingest([tmp_path / "text.txt"], tmp_path / "zstd", tokenizer="byte", codec="zstd")
    with hr.Store.open(tmp_path / "zstd", cache_bytes=1) as opened:
        yield opened


def test_rows_found_in_blocks_are_those_that_gather_reads(store, zstd):
    rng = np.random.default_rng(0)
    starts = rng.integers(0, zstd.num_tokens - 100, (40, 8))
    found = zstd.lookup(starts, 100)
    for number, batch in enumerate(starts):
        assert np.array_equal(found.read(number), store.gather(batch, 100))


def test_a_row_that_needs_more_than_a_block_is_left_to_gather(zstd):
    length = zstd.block_tokens + 8193  # a block and its tail hold less
    found = zstd.lookup(np.array([[0, 1], [2, 3]]), length)
    assert found.read(0) is None
    assert zstd.lookup(np.array([[0, 1]]), 100).read(0) is not None


def test_blocks_of_a_closed_store_are_not_read_from_what_was_found(zstd):
    found = zstd.lookup(np.zeros((1, 1), np.int64), 10)
    zstd.close()
    assert found.read(0) is None
