"""A store of samples of format version 2, written once: read by every later version, and written today to the same
bytes. Never write these files anew to make a test pass: somebody's stores are like them.
"""

from __future__ import annotations

from pathlib import Path

import lz4
import pytest
import zstandard
from sample_fakes import make_samples, same, sample_rows

from headrace.storage import open_blob
from headrace.store import SampleStore, verify_samples

GOLDEN = Path(__file__).parents[2] / "golden" / "samples-v2"
CODECS = ["none", "lz4", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
def test_a_golden_store_is_read(codec):
    rows = sample_rows(20)
    with SampleStore.open(GOLDEN / codec) as store:
        assert all(same(store[i], rows[i]) for i in range(20))
        assert store.fingerprint == "16558e0c596b8f20905b24c10a239cd4"
        assert verify_samples(store) == store.nbytes


@pytest.mark.parametrize("codec", CODECS)
def test_a_golden_store_is_written_today_to_the_same_bytes(tmp_path, codec):
    if codec == "zstd" and zstandard.ZSTD_VERSION != (1, 5, 7):
        pytest.skip(f"zstd {zstandard.ZSTD_VERSION} may compress otherwise than 1.5.7")
    if codec == "lz4" and lz4.library_version_string() != "1.9.4":
        pytest.skip(f"LZ4 {lz4.library_version_string()} may compress otherwise than 1.9.4")
    make_samples(tmp_path, sample_rows(20), sizes=[7, 13], codec=codec, block_bytes=700)
    golden, today = open_blob(GOLDEN / codec), open_blob(tmp_path)
    assert today.list() == golden.list()
    for name in golden.list():
        assert bytes(today.get(name)) == bytes(golden.get(name)), name
