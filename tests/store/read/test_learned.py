"""Learned spans: as they are written so they are read, in any piece, over any borders of shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_fakes import BYTE

from headrace.errors import ConfigError, OrderError, ShardError
from headrace.storage import open_blob
from headrace.store import Store, commit_store, export_megatron, verify_store, write_shard
from headrace.store.read.learned import learned_mask
from headrace.store.shard import spans_of


def write_masked(url, masks, *, prefix="s", block_tokens=16, **commit):
    """A store with a shard for each mask (None: without spans); the id at place i is i % 200."""
    entries, at = [], 0
    for i, (mask, count) in enumerate(masks):
        tokens = (np.arange(at, at + count) % 200).astype(np.uint16)
        tokens[-1] = BYTE.eos_id
        entries.append(
            write_shard(url, f"{prefix}{i}", tokens, [count], block_tokens=block_tokens, learned=mask)
        )
        at += count
    commit_store(url, entries, tokenizer=BYTE, **commit)
    return entries


def mask_of(count, seed):
    return np.random.default_rng(seed).random(count) < 0.4


masks = st.lists(
    st.one_of(st.integers(1, 40).map(lambda n: (None, n)), st.lists(st.booleans(), min_size=1, max_size=40)),
    min_size=1,
    max_size=5,
)


@given(masks, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 120)), max_size=6))
def test_every_piece_has_the_mask_that_was_written(shards, pieces):
    from headrace.store.read.learned import Spans

    whole, spans, sizes = [], [], []
    for shard in shards:
        mask = np.ones(shard[1], np.bool_) if isinstance(shard, tuple) else np.array(shard)
        whole.append(mask)
        sizes.append(len(mask))
        begins, ends = spans_of(mask)
        spans.append(None if isinstance(shard, tuple) else Spans(begins=begins, ends=ends))
    stream = np.concatenate(whole)
    starts = np.array([min(a, len(stream)) for a, _ in pieces], np.int64)
    lengths = np.array(
        [min(n, len(stream) - a) for a, (_, n) in zip(starts.tolist(), pieces, strict=True)], np.int64
    )
    got = learned_mask(spans.__getitem__, np.cumsum([0, *sizes]), starts, lengths)
    expected = [stream[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    assert got.tolist() == np.concatenate([np.empty(0, np.bool_), *expected]).tolist()


def test_a_store_with_spans_is_of_version_2_and_one_without_is_as_before(tmp_path):
    write_masked(tmp_path / "a", [(mask_of(50, 0), 50), (None, 30)])
    write_masked(tmp_path / "b", [(None, 50), (None, 30)])
    assert b'"format_version": 2' in (tmp_path / "a/manifest.json").read_bytes()
    assert b'"format_version": 1' in (tmp_path / "b/manifest.json").read_bytes()
    assert not list((tmp_path / "b").rglob("*.spans.arrow"))
    with Store.open(tmp_path / "a") as masked, Store.open(tmp_path / "b") as plain:
        assert masked.fingerprint != plain.fingerprint
        assert (masked.has_spans, plain.has_spans) == (True, False)
        assert masked.learned([0], 80).tolist() == [*mask_of(50, 0), *[True] * 30]
        assert plain.learned([3, 5], np.array([2, 4])).all()
        assert verify_store(masked) == masked.nbytes
        with pytest.raises(OrderError, match="leaves the stream"):
            masked.learned([79], 2)


def test_shards_with_spans_are_appended_to_a_store_without_and_older_snapshots_stay(tmp_path):
    write_masked(tmp_path, [(None, 20)])
    write_masked(tmp_path, [(mask_of(30, 1), 30)], prefix="t", append=True)
    with Store.open(tmp_path) as both, Store.open(tmp_path, snapshot=1) as before:
        assert both.learned([0], 50).tolist() == [*[True] * 20, *mask_of(30, 1)]
        assert not before.has_spans


def test_no_flipped_byte_of_a_span_file_gives_another_mask(tmp_path):
    write_masked(tmp_path, [(mask_of(40, 2), 40)])
    file = tmp_path / "data/s0.spans.arrow"
    data = file.read_bytes()
    for i in range(0, len(data), 5):
        file.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        with Store.open(tmp_path) as store, pytest.raises(ShardError, match=r"spans\.arrow"):
            store.learned([0], 10)
    file.unlink()
    with Store.open(tmp_path) as store, pytest.raises(ShardError, match="missing"):
        verify_store(store)


@pytest.mark.parametrize("spans", [([3, 2], [4, 6]), ([0, 4], [4, 6]), ([0], [41]), ([5], [5])])
def test_forged_spans_are_refused(tmp_path, spans, monkeypatch):
    from headrace.store import shard

    columns = tuple(np.array(column, np.uint32) for column in spans)
    monkeypatch.setattr(shard, "spans_of", lambda mask: columns)
    write_masked(tmp_path, [(mask_of(40, 3), 40)])
    with Store.open(tmp_path) as store, pytest.raises(ShardError, match="do not ascend"):
        store.learned([0], 10)


def test_a_mask_of_another_length_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"learned is bool \[3\], expected bool \[4\]"):
        write_masked(tmp_path, [(np.ones(3, np.bool_), 4)])


def test_megatron_files_are_not_written_of_a_store_with_given_tokens(tmp_path):
    write_masked(tmp_path / "part", [(mask_of(40, 4), 40)])
    write_masked(tmp_path / "all", [(np.ones(40, np.bool_), 40)])
    with Store.open(tmp_path / "part") as store, pytest.raises(ConfigError, match="--learn all"):
        export_megatron(store, tmp_path / "megatron")
    with Store.open(tmp_path / "all") as store:
        assert export_megatron(store, tmp_path / "megatron")[0].is_file()


def test_spans_take_8_bytes_each(tmp_path):
    mask = np.tile(np.repeat([False, True], 50), 1000)
    entries = write_masked(tmp_path, [(mask, len(mask))], block_tokens=65_536)
    assert entries[0].spans_nbytes < 8 * 1000 + 2000
    assert len(bytes(open_blob(tmp_path).get("data/s0.spans.arrow"))) == entries[0].spans_nbytes
