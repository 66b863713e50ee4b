"""`verify_store` reads everything: no flipped, missing or added byte of a store stays unseen."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import StoreError
from headrace.store import Store, commit_store, verify_store, write_shard
from headrace.tokens import load_tokenizer


def make(path: Path, codec: str) -> Path:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 256, 300).astype(np.uint16)
    ends = np.array([100, 180, 300])
    tokens[ends - 1] = 256
    tokens[:99] = 7  # compresses
    entry = write_shard(path, "s0", tokens, ends, codec=codec, block_tokens=64)
    commit_store(path, [entry], tokenizer=load_tokenizer("byte"))
    return path


def check(path: Path) -> None:
    with Store.open(path) as store:
        verify_store(store)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_every_byte_of_a_small_store_flipped_in_turn_is_detected(tmp_path, codec):
    store = make(tmp_path / "store", codec)
    check(store)
    files = [p for p in sorted(store.rglob("*")) if p.is_file()]
    assert len(files) >= 5
    if codec != "zstd":  # the other files are the same for every codec
        files = [store / "data" / "s0.arrow"]
    for path in files:
        good = path.read_bytes()
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 1 << (at % 8)
            path.write_bytes(bad)
            with pytest.raises(StoreError, match=r".+"):
                check(store)
        path.write_bytes(good)
    check(store)


def test_a_file_cut_off_or_lengthened_or_missing_is_named(tmp_path):
    store = make(tmp_path / "store", "zstd")
    for path in sorted((store / "data").iterdir()):
        good = path.read_bytes()
        for damaged in (good[:-1], good + b"\0", b""):
            path.write_bytes(damaged)
            with pytest.raises(StoreError, match=path.name):
                check(store)
        path.unlink()
        with pytest.raises(StoreError, match=path.name):
            check(store)
        path.write_bytes(good)
    shutil.rmtree(store / "tokenizer")
    with pytest.raises(StoreError, match="tokenizer"):
        check(store)
