"""Stores of format versions 1 and 2, written once: read by every later version, and written today to the same bytes.

Never write these files anew to make a test pass: somebody's stores are like them. `make_golden` says how they came
to be. The compressed bytes are zstandard 0.25's (zstd 1.5.7) and lz4 4.4's (LZ4 1.9.4); another release of those may
compress otherwise, and then only reading is held.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import lz4
import numpy as np
import pytest
import zstandard
from store_fakes import BYTE, WIDE

from headrace.storage import open_blob
from headrace.store import Store, commit_store, verify_store, write_shard

GOLDEN = Path(__file__).parent.parent / "golden" / "store-v1"
SPANS = GOLDEN.parent / "store-v2"
"""One shard with learned spans, and one without, appended."""
CASES = [(codec, dtype) for codec in ("none", "lz4", "zstd") for dtype in ("uint16", "uint32")]
FIRST_ZSTD = "zstd-uint16-matches-of-6"
"""Written while zstd looked for matches of 3 tokens, and not of 2."""
WRITTEN = [pytest.param(codec, dtype, f"{codec}-{dtype}", id=f"{codec}-{dtype}") for codec, dtype in CASES]


def golden_tokens(dtype):
    """Without a random generator, whose stream might change: ids that repeat, and ends at fixed places."""
    tokens = ((np.arange(400) * 7919) % 61 + (np.arange(400) // 100) * 40).astype(dtype)
    ends = np.array([1, 50, 120, 121, 333, 390])
    tokens[ends - 1] = 256 if dtype == "uint16" else 99_999
    if dtype == "uint32":
        tokens[200:210] = 70_000
    return tokens, ends


def make_golden(path, codec, dtype):
    """Two shards, then a third one appended: two snapshots."""
    tokens, ends = golden_tokens(dtype)
    tokenizer = BYTE if dtype == "uint16" else WIDE
    cuts = [0, 130, 300, 400]
    entries = []
    for i, (low, high) in enumerate(itertools.pairwise(cuts)):
        inside = ends[(ends > low) & (ends <= high)] - low
        entries.append(write_shard(path, f"part-{i}", tokens[low:high], inside, codec=codec, block_tokens=64))
    commit_store(path, entries[:2], tokenizer=tokenizer, extra={"made by": "headrace"})
    commit_store(path, entries[2:], tokenizer=tokenizer, append=True)


@pytest.mark.parametrize(("codec", "dtype", "name"), [*WRITTEN, ("zstd", "uint16", FIRST_ZSTD)])
def test_a_golden_store_is_read(codec, dtype, name):
    tokens, ends = golden_tokens(dtype)
    with Store.open(GOLDEN / name) as store:
        assert (store.snapshot, store.dtype, store.codec) == (2, dtype, codec)
        assert np.array_equal(store.read(0, 400), tokens)
        assert np.array_equal(
            store.gather([0, 60, 120, 290], 100), tokens[np.array([[0], [60], [120], [290]]) + np.arange(100)]
        )
        assert store.document_ends(0, 400).tolist() == ends.tolist()
        assert verify_store(store) == store.nbytes
        assert store.fingerprint == json.loads((GOLDEN / "fingerprints.json").read_text())[dtype]
    with Store.open(GOLDEN / name, snapshot=1) as first:
        assert np.array_equal(first.read(0, 300), tokens[:300])
        assert first.extra == {"made by": "headrace"}


@pytest.mark.parametrize(("codec", "dtype"), CASES)
def test_a_golden_store_is_written_today_to_the_same_bytes(tmp_path, codec, dtype):
    if codec == "zstd" and zstandard.ZSTD_VERSION != (1, 5, 7):
        pytest.skip(f"zstd {zstandard.ZSTD_VERSION} may compress otherwise than 1.5.7")
    if codec == "lz4" and lz4.library_version_string() != "1.9.4":
        pytest.skip(f"LZ4 {lz4.library_version_string()} may compress otherwise than 1.9.4")
    make_golden(tmp_path, codec, dtype)
    golden, today = open_blob(GOLDEN / f"{codec}-{dtype}"), open_blob(tmp_path)
    assert today.list() == golden.list()
    for name in golden.list():
        assert bytes(today.get(name)) == bytes(golden.get(name)), name


def test_the_same_tokens_have_one_fingerprint_whatever_the_codec():
    prints = {Store.open(GOLDEN / f"{codec}-uint16").fingerprint for codec in ("none", "lz4", "zstd")}
    assert len(prints) == 1


def make_spans(path):
    """A shard with learned spans, then one without: two snapshots."""
    tokens, ends = golden_tokens("uint16")
    tokens[60] = 256  # an end-of-document id inside a document
    learned = (np.arange(300) % 37 > 20) & (np.arange(300) > 49)
    inside, after = ends[ends <= 300], ends[ends > 300] - 300
    first = write_shard(path, "part-0", tokens[:300], inside, codec="none", block_tokens=64, learned=learned)
    second = write_shard(path, "part-1", tokens[300:], after, codec="none", block_tokens=64)
    commit_store(path, [first], tokenizer=BYTE, extra={"made by": "headrace"})
    commit_store(path, [second], tokenizer=BYTE, append=True)
    return tokens, ends, np.append(learned, np.ones(100, np.bool_))


def test_a_golden_store_with_spans_is_read_and_written_today_to_the_same_bytes(tmp_path):
    tokens, ends, learned = make_spans(tmp_path)
    with Store.open(SPANS) as store:
        assert np.array_equal(store.read(0, 400), tokens)
        assert store.document_ends(0, 400).tolist() == ends.tolist()
        assert np.array_equal(store.learned([0], 400), learned)
        assert verify_store(store) == store.nbytes
    golden, today = open_blob(SPANS), open_blob(tmp_path)
    assert today.list() == golden.list()
    for name in golden.list():
        assert bytes(today.get(name)) == bytes(golden.get(name)), name
