"""commit.py, shard.py: after a power cut at any moment of a commit, the store is one of its snapshots, whole."""

from __future__ import annotations

import numpy as np
import pytest
from storage_fakes import PowerCut
from store_fakes import BYTE, make_store, sample_tokens

from headrace.errors import ManifestError
from headrace.store import Store, commit_store, export_megatron, verify_store, write_shard

TOKENS, ENDS = sample_tokens(600)


def snapshot_in(place):
    """Number of the snapshot that opens and verifies; 0 where there is no store."""
    if not (place / "manifest.json").exists():
        with pytest.raises(ManifestError, match=r"no manifest\.json"):
            Store.open(place)
        return 0
    store = Store.open(place)
    assert verify_store(store) == store.nbytes
    assert np.array_equal(store.read(0, 600), TOKENS)
    return store.snapshot


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_what_was_synced_is_a_whole_snapshot_at_every_moment_of_a_commit(tmp_path, monkeypatch, codec):
    disk, seen = tmp_path / "disk", []
    disk.mkdir()
    places = iter(range(1000))

    def check():
        left = power.survivors(tmp_path / f"left-{next(places)}")
        seen.append(snapshot_in(left / "runs" / "new" / "store"))

    power = PowerCut(disk, at_sync=check)
    store = disk / "runs" / "new" / "store"
    with monkeypatch.context() as patch:
        power.patch(patch)
        make_store(store, TOKENS, ENDS, sizes=[200, 400], codec=codec)
        check()
        assert seen[-1] == 1, "a commit that has returned is durable"
        more = write_shard(store, "more", TOKENS, ENDS, block_tokens=64)
        commit_store(store, [more], tokenizer=BYTE, append=True)
        check()
    assert seen[-1] == 2
    assert seen == sorted(seen), "no snapshot is lost again"
    assert set(seen) == {0, 1, 2}


def test_an_export_that_has_returned_is_durable(tmp_path, monkeypatch):
    make_store(tmp_path / "store", TOKENS, ENDS)
    disk = tmp_path / "disk"
    disk.mkdir()
    power = PowerCut(disk)
    with Store.open(tmp_path / "store") as store, monkeypatch.context() as patch:
        power.patch(patch)
        export_megatron(store, disk / "out" / "corpus")
    left = power.survivors(tmp_path / "left")
    assert np.array_equal(Store.open(left / "out" / "corpus").read(0, 600), TOKENS)
