"""Rows are announced to remote stores before they are read, in order, a window ahead, and of nothing beyond the end."""

import numpy as np
import pytest

from headrace.load import Loader, ReadOptions, mix


def hinted_blocks(store, calls=slice(None)):
    size = store.block_tokens
    return [
        block
        for starts, length in list(zip(store.hinted, store.hinted_lengths, strict=True))[calls]
        for start in starts.tolist()
        for block in range(start // size, (start + length - 1) // size + 1)
    ]


@pytest.mark.parametrize("shuffle", ["global", "blocks", "none"])
def test_every_block_is_announced_before_it_is_read(fake_store, shuffle):
    store = fake_store(20_000, remote=True)
    announced = set()
    plain = store.gather

    def gather(starts, length, out=None):
        announced.update(hinted_blocks(store))
        for start in starts:
            assert {start // 64, (start + length - 1) // 64} <= announced
        return plain(starts, length, out)

    store.gather = gather
    with Loader(store, seq_len=9, batch_size=8, epochs=1, shuffle=shuffle) as loader:
        assert sum(batch.num_rows for batch in loader) == loader.num_rows


def test_the_first_batch_of_a_global_shuffle_waits_for_few_announcements_only(fake_store):
    store = fake_store(200_000, remote=True)
    with Loader(
        store, seq_len=9, batch_size=8, shuffle="global", reading=ReadOptions(threads=1, prefetch=1)
    ) as loader:
        next(loader)
        assert len(store.hinted) == 1
        assert len(store.hinted[0]) <= 64


def test_a_block_shuffle_asks_for_nearly_all_blocks_of_a_window_at_once(fake_store):
    """So that neighbours are fetched together: few large requests, not one for each block."""
    store = fake_store(400_000, remote=True)
    with Loader(
        store, seq_len=7, batch_size=8, shuffle="blocks", reading=ReadOptions(window=4, threads=1, prefetch=1)
    ) as loader:
        next(loader)
        window = loader._orders[0].window * loader._orders[0].block_rows * 7 // 64
    assert 0.9 * window <= len(set(hinted_blocks(store, slice(1)))) <= 1.1 * window


def test_a_rank_among_many_announces_only_what_it_reads(fake_store):
    store = fake_store(200_000, remote=True)
    with Loader(
        store,
        seq_len=31,
        batch_size=512,
        epochs=1,
        shuffle="blocks",
        reading=ReadOptions(window=4),
        rank=3,
        world_size=512,
    ) as loader:
        rows = {int(row) for batch in loader for row in batch.rows}
    assert set(hinted_blocks(store)) == {b for row in rows for b in (row * 31 // 64, (row * 31 + 31) // 64)}


def test_mapped_stores_are_left_alone(fake_store):
    store = fake_store(20_000)
    for _ in Loader(store, seq_len=9, batch_size=8, epochs=1):
        pass
    assert store.hinted == []


def test_each_rank_announces_its_own_rows_only(fake_store):
    blocks = []
    for rank in range(2):
        store = fake_store(20_000, remote=True)
        with Loader(
            store, seq_len=63, batch_size=8, epochs=1, rank=rank, world_size=2, shuffle="global"
        ) as loader:
            rows = {int(row) for batch in loader for row in batch.rows}
        blocks.append(hinted_blocks(store))
        assert set(blocks[-1]) == {b for row in rows for b in (row * 63 // 64, (row * 63 + 63) // 64)}
    assert len(blocks[0]) < 1.3 * len(blocks[1])


def test_packed_and_mixed_rows_are_announced_too(fake_store, tmp_path):
    one, two = fake_store(9000, remote=True), fake_store(5000, seed=1, remote=True, name="two")
    loader = Loader(
        mix({one: 1, two: 1}),
        seq_len=31,
        batch_size=8,
        epochs=1,
        packing="best_fit",
        reading=ReadOptions(packing_dir=tmp_path),
    )
    with loader:
        for _ in loader:
            pass
    # An epoch of the mixture is not quite one of each store.
    assert len(set(hinted_blocks(one))) > 0.9 * 9000 / 64
    assert len(set(hinted_blocks(two))) > 0.9 * 5000 / 64


def test_a_block_shuffle_reads_each_block_of_a_store_about_once(make_store):
    store, tokens, _ = make_store(120_000, codec="zstd", block_tokens=256)
    cache = 40 * 256 * 2
    small = type(store).open(store.url, cache_bytes=cache)
    with Loader(
        small, seq_len=15, batch_size=16, epochs=1, shuffle="blocks", reading=ReadOptions(window=2, threads=0)
    ) as loader:
        got = np.concatenate([batch.tokens[:, :-1] for batch in loader])
    assert (np.sort(got.ravel()) == np.sort(tokens[: got.size])).all()
