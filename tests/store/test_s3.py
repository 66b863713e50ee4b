"""A real S3 server: the whole way, cold, through the machine's cache, and with two who commit at once."""

from __future__ import annotations

import numpy as np
import pytest
from store_fakes import BYTE, make_store, sample_tokens

from headrace.errors import ManifestError, ShardError
from headrace.storage import open_blob
from headrace.store import Store, commit_store, verify_store, write_shard

pytestmark = pytest.mark.s3
TOKENS, ENDS = sample_tokens(200_000)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("cached", [False, True])
def test_rows_of_a_store_on_s3_are_the_tokens_that_were_written(s3_url, tmp_path, codec, cached):
    make_store(s3_url, TOKENS, ENDS, sizes=[80_000, 120_000], codec=codec, block_tokens=1024)
    rows = np.random.default_rng(0).permutation(1562)[:512].reshape(16, 32) * 128
    for _ in range(2):
        with Store.open(s3_url, cache_dir=tmp_path / "cache" if cached else None) as store:
            store.prefetch(rows[0], 129)
            for one, after in zip(rows, [*rows[1:], rows[:0]], strict=True):
                store.prefetch(np.ravel(after), 129)
                assert np.array_equal(store.gather(one, 129), TOKENS[one[:, None] + np.arange(129)])
            assert (
                store.document_ends(70_000, 90_000).tolist()
                == ENDS[(ENDS > 70_000) & (ENDS <= 90_000)].tolist()
            )
    assert bool(list((tmp_path / "cache").rglob("*-*")) if cached else []) == cached


def test_a_store_on_s3_is_appended_to_and_verified(s3_url):
    make_store(s3_url, TOKENS[:1000], ENDS[ENDS <= 1000])
    more = write_shard(s3_url, "more", TOKENS[:500], ENDS[ENDS <= 500], block_tokens=64)
    assert commit_store(s3_url, [more], tokenizer=BYTE, append=True) == 2
    store = Store.open(s3_url)
    assert verify_store(store) == store.nbytes
    assert np.array_equal(store.read(1000, 1500), TOKENS[:500])
    assert Store.open(s3_url, snapshot=1).num_tokens == 1000


def test_of_two_commits_to_s3_at_once_one_is_refused(s3_url):
    make_store(s3_url, TOKENS[:1000], ENDS[ENDS <= 1000])
    blob = open_blob(s3_url)
    blob.put("manifest-00000002.json", b"another writer's")
    more = write_shard(s3_url, "more", TOKENS[:500], ENDS[ENDS <= 500], block_tokens=64)
    with pytest.raises(ManifestError, match="another writer committed snapshot 2"):
        commit_store(s3_url, [more], tokenizer=BYTE, append=True)
    assert Store.open(s3_url).snapshot == 1


def test_damage_on_s3_is_an_error_that_names_it(s3_url):
    make_store(s3_url, TOKENS[:1000], ENDS[ENDS <= 1000])
    blob = open_blob(s3_url)
    data = bytearray(blob.get("data/s0.arrow"))
    at = int(Store.open(s3_url)._source.index(0).offset[3]) + 9
    data[at] ^= 1
    blob.put("data/s0.arrow", bytes(data))
    with Store.open(s3_url) as store:
        assert np.array_equal(store.read(0, 192), TOKENS[:192])
        with pytest.raises(ShardError, match=r"s3://.*/data/s0\.arrow: block 3 of 16"):
            store.read(192, 200)


def test_a_bucket_that_is_not_there_is_not_a_store(s3_url):
    with pytest.raises(ManifestError, match="not a complete store"):
        Store.open("s3://no-such-bucket/x")
