"""mapped.py, mapped_blocks.py: files are mapped while the process has memory maps left, and read when it has not."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from store_fakes import make_store, sample_tokens

from headrace.errors import StoreError
from headrace.store import Store, verify_store
from headrace.store.read import mapped

TOKENS, ENDS = sample_tokens(1000)
STARTS = np.random.default_rng(0).permutation(900)[:64]


def rows_are_right(store):
    return np.array_equal(store.gather(STARTS, 40), TOKENS[STARTS[:, None] + np.arange(40)])


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_store_with_more_shards_than_memory_maps_is_read_without_them(tmp_path, monkeypatch, codec):
    make_store(tmp_path, TOKENS, ENDS, sizes=[100] * 10, codec=codec)
    monkeypatch.setattr(mapped, "max_memory_maps", lambda: 30)
    with Store.open(tmp_path) as store:
        assert store._gather._blocks._files is None
        assert rows_are_right(store)
        assert store.lookup(STARTS.reshape(2, 32), 40).read(0) is None or codec == "zstd"
        assert verify_store(store) == store.nbytes


def test_all_stores_of_a_process_share_its_memory_maps_and_give_them_back(tmp_path, monkeypatch):
    make_store(tmp_path, TOKENS, ENDS, sizes=[100] * 10, codec="none")
    gc.collect()
    monkeypatch.setattr(mapped, "_reserved_maps", 0)
    monkeypatch.setattr(mapped, "max_memory_maps", lambda: 60)
    first, second = Store.open(tmp_path), Store.open(tmp_path)
    assert first._gather._blocks._files is not None
    assert second._gather._blocks._files is None
    assert rows_are_right(first)
    assert rows_are_right(second)
    first.close()
    del first
    gc.collect()
    third = Store.open(tmp_path)
    assert third._gather._blocks._files is not None
    assert rows_are_right(third)


def test_a_mapping_that_the_system_refuses_is_an_error_with_the_limit(tmp_path, monkeypatch):
    make_store(tmp_path, TOKENS, ENDS, codec="none")

    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mapped, "map_file_at", refuse)
    with (
        Store.open(tmp_path) as store,
        pytest.raises(StoreError, match=r"cannot be mapped: .*vm\.max_map_count"),
    ):
        store.read(0, 10)
