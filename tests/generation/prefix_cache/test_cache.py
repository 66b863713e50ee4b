"""Tests cache.py alone: what is found, kept and removed."""

import torch

from headrace.generation.prefix_cache import BlockDirectory, PrefixCache
from headrace.model import KVCache

SHAPE = (2, 1, 1, 4, 8)
BLOCK_BYTES = 4 * 2 * 4 * 8


def filled(length):
    """A row whose slot s holds s + 1."""
    kv = KVCache(num_layers=1, num_rows=2, num_heads=1, capacity=length, head_dim=8)
    kv.k_LBHSD[:, 1] = torch.arange(1, length + 1).view(1, 1, length, 1)
    kv.v_LBHSD[:, 1] = -kv.k_LBHSD[:, 1]
    return kv


def new_cache(*, blocks=100, **more):
    return PrefixCache(
        model="m", dtype=torch.float32, shape=SHAPE, memory_bytes=blocks * BLOCK_BYTES + 1, **more
    )


def insert(cache, ids, *, scope=""):
    cache.insert(cache.keys_of(ids, scope=scope), filled(len(ids)), 1)


def test_a_prefix_is_found_up_to_the_last_whole_block_before_the_last_token():
    cache = new_cache()
    insert(cache, range(12))
    assert cache.num_blocks == 3
    assert [cache.find(range(length)).num_tokens for length in (0, 1, 4, 5, 8, 9, 12, 13, 20)] == [
        0, 0, 0, 4, 4, 8, 8, 12, 12,
    ]  # fmt: skip
    assert cache.find([0, 1, 2, 3, 9, 5, 6, 7, 8]).num_tokens == 4
    kv = KVCache(num_layers=1, num_rows=2, num_heads=1, capacity=12, head_dim=8)
    for number, block in enumerate(cache.find(range(13)).blocks):
        kv.paste_tokens(0, 4 * number, block)
    assert torch.equal(kv.k_LBHSD[:, 0], filled(12).k_LBHSD[:, 1])
    assert torch.equal(kv.v_LBHSD[:, 0], filled(12).v_LBHSD[:, 1])


def test_a_block_does_not_change_with_the_row_that_it_was_copied_from():
    cache, kv = new_cache(), filled(4)
    cache.insert(cache.keys_of(range(4)), kv, 1)
    kv.k_LBHSD.zero_()
    assert float(cache.find(range(5)).blocks[0].abs().min()) == 1.0


def test_nothing_is_found_from_another_scope():
    cache = new_cache()
    insert(cache, range(8), scope="one key")
    assert cache.find(range(9), scope="other key").num_tokens == 0
    assert cache.find(range(9)).num_tokens == 0
    assert cache.find(range(9), scope="one key").num_tokens == 8


def test_the_least_recently_used_blocks_are_removed_and_a_chain_from_its_end():
    cache = new_cache(blocks=4)
    insert(cache, range(8))
    insert(cache, range(100, 108))
    assert cache.find(range(9)).num_tokens == 8  # used again
    insert(cache, range(200, 204))
    assert cache.nbytes == 4 * BLOCK_BYTES
    assert cache.find(range(100, 109)).num_tokens == 4
    assert cache.find(range(9)).num_tokens == 8


def test_of_a_text_longer_than_the_bound_the_beginning_is_kept():
    cache = new_cache(blocks=2)
    insert(cache, range(40))
    assert cache.find(range(40)).num_tokens == 8


def test_blocks_of_a_directory_outlive_the_cache_and_its_removals(tmp_path):
    def directory():
        return BlockDirectory(tmp_path, max_bytes=1 << 20, model="m", dtype=torch.float32, shape=SHAPE)

    cache = new_cache(blocks=2, directory=directory())
    for first in (0, 100, 200):
        insert(cache, range(first, first + 8))
    cache.close()
    assert cache.find(range(9)).num_tokens == 8
    again = new_cache(blocks=1, directory=directory())
    assert [again.find(range(first, first + 9)).num_tokens for first in (0, 100, 200, 300)] == [8, 8, 8, 0]
    assert again.num_blocks == 1


def test_a_block_that_stays_in_memory_is_marked_as_used_in_the_directory_now_and_then():
    """Else the directory would remove first what is used most."""
    now, given = [0.0], []

    class Recorder:
        def read(self, _):
            return None

        def write_later(self, chain):
            given.append([key for key, _ in chain])
            return True

    cache = new_cache(directory=Recorder(), clock=lambda: now[0])
    insert(cache, range(8))
    for now[0] in (1.0, 59.0, 61.0, 62.0):
        cache.find(range(9))
    assert given == [cache.keys_of(range(8))] * 2
