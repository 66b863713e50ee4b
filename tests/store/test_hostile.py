"""Damaged and forged stores: never other tokens, never a crash, never a huge allocation, always a name."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import xxhash
from store_fakes import BYTE, make_store, sample_tokens

from headrace.errors import ManifestError, ShardError, StoreError
from headrace.storage import open_blob
from headrace.store import Store, commit_store, verify_store, write_shard
from headrace.store.arrow.reader import ArrowFileError, read_columns
from headrace.store.arrow.writer import table_bytes
from headrace.store.format import INDEX_FIELDS, TABLE_FIELDS
from headrace.store.manifest import parse_manifest
from headrace.store.table import encode_table

CODECS = ["none", "lz4", "zstd"]


@pytest.fixture(params=CODECS)
def small(request, tmp_path):
    """A store of two shards: its path, tokens and ends."""
    tokens, ends = sample_tokens(90)
    make_store(tmp_path, tokens, ends, sizes=[50, 40], codec=request.param, block_tokens=32)
    return tmp_path, tokens, ends


def files(path):
    return [file for file in sorted(path.rglob("*")) if file.is_file()]


def read_all(path, tokens, ends):
    """Everything that reading gives; it must be right, or raise."""
    with Store.open(path) as store:
        assert np.array_equal(store.gather([0, 20], 10), tokens[np.array([[0], [20]]) + np.arange(10)])
        assert np.array_equal(store.read(0, len(tokens)), tokens)
        assert store.document_ends(0, len(tokens)).tolist() == ends.tolist()
        store.tokenizer_files()


def damaged(path, codec, change):
    """Each file in turn, each change of it; every kind of file once, the data file for every codec."""
    for file in files(path):
        if codec != "zstd" and not file.match("data/s0.arrow"):
            continue
        data = file.read_bytes()
        # Every third byte: each costs a store to open, and `verify` is tested with all of them.
        for i in range(len(data) % 3, len(data), 3):
            file.write_bytes(change(data, i))
            yield file.name, i
        file.write_bytes(data)


CHANGES = {
    "flipped": lambda data, i: data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :],
    "cut": lambda data, i: data[:i],
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("change", CHANGES)
def test_no_flipped_byte_and_no_cut_gives_other_tokens(tmp_path, codec, change):
    """What `verify` must find is in test_verify; here: reading is right or an error, whatever happened."""
    tokens, ends = sample_tokens(40)
    make_store(tmp_path, tokens, ends, codec=codec, block_tokens=16)
    refused = set()
    for name, _ in damaged(tmp_path, codec, CHANGES[change]):
        try:
            read_all(tmp_path, tokens, ends)
        except StoreError:
            refused.add(name)
    read_all(tmp_path, tokens, ends)
    assert "s0.arrow" in refused
    if codec == "zstd":
        assert refused >= {"s0.index.arrow", "s0.docs.arrow", "manifest.json", "headrace-tokenizer.json"}


def test_a_missing_or_longer_file_is_refused_by_name(small):
    path, tokens, ends = small
    for file in files(path):
        data = file.read_bytes()
        for action in ("unlink", "append"):
            file.unlink() if action == "unlink" else file.write_bytes(data + b"\0")
            with pytest.raises(StoreError, match=file.name.replace(".", r"\.")):
                verify_store(Store.open(path))
            file.write_bytes(data)
    read_all(path, tokens, ends)


def test_a_damaged_block_is_named_with_both_checksums(tmp_path):
    tokens, ends = sample_tokens(90)
    make_store(tmp_path, tokens, ends, codec="none", block_tokens=32)
    file = tmp_path / "data" / "s0.arrow"
    data = bytearray(file.read_bytes())
    data[data.find(tokens.tobytes()) + 2 * 40] ^= 1
    file.write_bytes(data)
    store = Store.open(tmp_path)
    assert np.array_equal(store.read(0, 32), tokens[:32]), "the other blocks are as good as before"
    for _ in range(2):
        with pytest.raises(
            ShardError,
            match=r"s0\.arrow: block 1 of 3 .*xxh3 0x\w+, the index says 0x\w+.*headrace inspect --verify",
        ):
            store.gather([30], 10)
    assert np.array_equal(Store.open(tmp_path, verify=False).read(64, 90), tokens[64:])


# --- forged: every checksum is right, and what they cover is not ---


def forge(path, *, index=None, table=None, manifest=None):
    """Change columns of shard s0's index, the shard table, or manifest members, and put all checksums right."""
    blob = open_blob(path)
    store = Store.open(path)
    entries = list(store.shards)
    if index is not None:
        columns = read_columns(blob.get("data/s0.index.arrow"), INDEX_FIELDS)
        changed = {f.name: (f.type, np.array(index.get(f.name, columns[f.name]))) for f in INDEX_FIELDS}
        data = table_bytes(changed)
        blob.put("data/s0.index.arrow", data)
        entries[0] = replace(entries[0], index_nbytes=len(data), index_xxh3=xxhash.xxh3_64_intdigest(data))
    if table is not None:
        entries[0] = replace(entries[0], **table)
    data = encode_table(entries)
    digest = xxhash.xxh3_128_hexdigest(data)
    name = f"shards-{digest}.arrow"
    blob.put(name, data)
    value = json.loads(bytes(blob.get("manifest.json")))
    value["table"] = {"name": name, "nbytes": len(data), "xxh3_128": digest}
    value |= manifest or {}
    sign(blob, value)


def sign(blob, value):
    value["checksum"] = "0" * 16
    text = (json.dumps(value, indent=2) + "\n").encode()
    blob.put(
        "manifest.json", text[:-20] + f"{xxhash.xxh3_64_intdigest(text[:-20]):016x}".encode() + text[-4:]
    )


def refused(path, message):
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match=message):
            Store.open(path).read(0, 90)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


HUGE = (1 << 64) - 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"offset": [0, 0, 0]}, "overlap|without a gap"),
        ({"offset": [500, 400, 300]}, "overlap"),
        ({"offset": [HUGE, HUGE, HUGE]}, "the data file has"),
        ({"offset": [0, 1, 1 << 40]}, "the data file has"),
        ({"nbytes": [64, 64, (1 << 32) - 1]}, "the data file has|takes at most"),
        ({"nbytes": [(1 << 32) - 1] * 3}, "overlap"),
        ({"tokens": [32, 32, 27]}, "block 2 of 3 has 27 tokens, expected 26"),
        ({"tokens": [(1 << 32) - 1, 0, 0]}, "expected 32"),
        ({"first": [300, 1, 2]}, "begins with another token"),
        (
            {"offset": [8], "nbytes": [1], "tokens": [1], "first": [0], "xxh3": [0]},
            "1 blocks, 90 tokens in blocks of 32 make 3",
        ),
    ],
)
def test_a_forged_index_is_refused(tmp_path, codec, index, message):
    tokens, ends = sample_tokens(90)
    make_store(tmp_path, tokens, ends, codec=codec, block_tokens=32)
    if codec == "none" and "first" in index:
        pytest.skip("an uncompressed shard is read without it")
    forge(tmp_path, index=index)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"tokens": 0}, "a shard of 0"),
        ({"tokens": (1 << 40) + 1}, "expected 1 to 2"),
        ({"tokens": 91}, "sum to"),
        ({"documents": 1 << 50}, "sum to"),
        ({"data_nbytes": HUGE}, "table is forged"),
        ({"data_nbytes": 1 << 46}, "table is forged"),
        ({"data_nbytes": 3}, "the data file has 3 bytes|table says 3"),
        ({"index_nbytes": HUGE}, "table is forged"),
        ({"index_xxh3": 1}, "xxh3"),
        ({"name": "../../etc/passwd"}, "shard name '../../etc/passwd'"),
        ({"name": "a/../../b"}, "shard name"),
        ({"name": "s9"}, "s9.*missing"),
    ],
)
def test_a_forged_table_is_refused(small, table, message):
    path, _, _ = small
    forge(path, table=table)
    refused(path, message)


def test_counts_that_are_wrong_everywhere_are_refused(small):
    path, _, _ = small
    forge(path, table={"tokens": 1 << 39}, manifest={"tokens": (1 << 39) + 40})
    refused(path, "blocks|forged|table says")


def test_a_wrong_number_of_documents_is_refused(small):
    path, _, _ = small
    documents = 9 + Store.open(path).shards[1].documents
    forge(path, table={"documents": 9}, manifest={"documents": documents})
    with pytest.raises(ShardError, match="the shard table says 9"):
        Store.open(path).document_ends(0, 90)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"format": "other"}, "not a headrace store's manifest"),
        ({"format_version": 3}, "format version 3, this headrace reads up to 2. Upgrade"),
        ({"format_version": "1"}, "format_version"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"eos_id": 257}, "eos_id"),
        ({"eos_id": True}, "eos_id"),
        ({"block_tokens": 0}, "block_tokens"),
        ({"block_tokens": 1 << 40}, "block_tokens"),
        ({"tokens": -1}, "tokens"),
        ({"num_shards": 3}, "sum to"),
        ({"fingerprint": "x"}, "fingerprint"),
        ({"table": {"name": "../x", "nbytes": 1, "xxh3_128": "0" * 32}}, "file name '../x'"),
        ({"table": {"name": "x", "nbytes": 1, "xxh3_128": "0" * 32}}, "shard table named 'x'"),
        ({"table": {"name": f"shards-{'0' * 32}.arrow", "nbytes": 1, "xxh3_128": "0" * 32}}, "missing"),
        ({"table": None}, "TypeError"),
        ({"tokenizer_files": [{"name": "../../x", "nbytes": 1, "xxh3_128": "0" * 32}]}, "file name"),
        ({"tokenizer_files": [{"name": "x", "nbytes": HUGE, "xxh3_128": "0" * 32}]}, "nbytes"),
    ],
)
def test_a_forged_manifest_is_refused(small, members, message):
    path, _, _ = small
    blob = open_blob(path)
    value = json.loads(bytes(blob.get("manifest.json")))
    sign(blob, value | members)
    refused(path, message)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"{}", b"\xff" * 40, b"[" * 100_000, b'{"format": 1}']
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(ManifestError, match=r"place/manifest\.json"):
        parse_manifest(data, where="place/manifest.json")


def test_hex_digits_of_the_other_case_are_a_change(small):
    path, _, _ = small
    data = (path / "manifest.json").read_bytes()
    changed = data[:-20] + data[-20:-4].upper() + data[-4:]
    if changed == data:
        pytest.skip("no letters in this checksum")
    (path / "manifest.json").write_bytes(changed)
    with pytest.raises(ManifestError, match="checksum"):
        Store.open(path)


def test_every_single_change_of_a_plain_file_is_refused_or_read_without_a_crash():
    """The reader of tables and indexes, without the checksum that usually stands before it."""
    values = {"utf8": ["ab", "c"], "binary16": [b"x" * 16] * 2}
    data = table_bytes({f.name: (f.type, values.get(f.type, np.array([1, 2]))) for f in TABLE_FIELDS})
    rng = np.random.default_rng(0)
    tracemalloc.start()
    refusals = 0
    for i in range(len(data)):
        for value in {255, int(rng.integers(256))} - {data[i]}:
            try:
                columns = read_columns(data[:i] + bytes([value]) + data[i + 1 :], TABLE_FIELDS)
            except ArrowFileError:
                refusals += 1
                continue
            assert len(columns["tokens"]) <= len(data)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert refusals > 300


def test_metadata_cannot_forge_ends(tmp_path):
    """A document file with right checksums whose ends leave the shard."""
    tokens, ends = sample_tokens(90)
    entry = write_shard(tmp_path, "s0", tokens, ends, block_tokens=32)
    for wrong in ([91], [0], [5, 5], [9, 3]):
        data = table_bytes({"end": ("uint64", np.array(wrong))})
        open_blob(tmp_path).put("data/s0.docs.arrow", data)
        forged = replace(
            entry, documents=len(wrong), docs_nbytes=len(data), docs_xxh3=xxhash.xxh3_64_intdigest(data)
        )
        commit_store(tmp_path, [forged], tokenizer=BYTE)
        with pytest.raises(ShardError, match="do not ascend within 1 to 90"):
            Store.open(tmp_path).document_ends(0, 90)
