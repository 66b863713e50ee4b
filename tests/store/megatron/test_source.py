"""Megatron's files: read as published, written as published.

Of megatron: source.py and export.py.
"""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
from store_fakes import make_store, sample_tokens

from headrace.cli import main
from headrace.errors import ConfigError, ManifestError, OrderError, ShardError, StoreError
from headrace.store import Store, export_megatron, verify_store


def write_pair(prefix, documents, *, code=8, version=1, modes=False):
    """Byte by byte from the layout, independent of our exporter. A document is a list of sequences of ids."""
    kind = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 8: "<u2"}[code]
    sequences = [sequence for document in documents for sequence in document]
    itemsize = np.dtype(kind).itemsize
    index = b"MMIDIDX\x00\x00" + struct.pack("<Q", version) + struct.pack("<B", code)
    index += struct.pack("<Q", len(sequences)) + struct.pack("<Q", len(documents) + 1)
    for sequence in sequences:
        index += struct.pack("<i", len(sequence))
    at = 0
    for sequence in sequences:
        index += struct.pack("<q", at)
        at += len(sequence) * itemsize
    count = 0
    index += struct.pack("<q", 0)
    for document in documents:
        count += len(document)
        index += struct.pack("<q", count)
    if modes:
        index += bytes(len(sequences))
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    data = b"".join(np.array(sequence, kind).tobytes() for sequence in sequences)
    prefix.with_name(prefix.name + ".bin").write_bytes(data)
    return np.array([i for sequence in sequences for i in sequence])


DOCUMENTS = [[[5, 6, 7, 256]], [[1, 256]], [[], [9, 8], [3, 256]], [[256]], [[]], [[4, 4, 4, 4, 256]]]
ENDS = [4, 6, 10, 11, 16]


@pytest.mark.parametrize("code", [8, 4])
@pytest.mark.parametrize("modes", [False, True])
@pytest.mark.parametrize("named", ["corpus.bin", "corpus.idx", "corpus", ""])
def test_a_pair_is_read_in_place(tmp_path, code, modes, named):
    ids = write_pair(tmp_path / "corpus", DOCUMENTS, code=code, modes=modes)
    with Store.open(tmp_path / named) as store:
        assert store.dtype == ("uint16" if code == 8 else "uint32")
        assert (store.num_tokens, store.num_documents, store.codec) == (16, 5, "none"), (
            "the empty document is not counted"
        )
        assert np.array_equal(store.read(0, 16), ids)
        assert np.array_equal(store.gather([0, 7, 11], 5), ids[np.array([[0], [7], [11]]) + np.arange(5)])
        assert store.document_ends(0, 16).tolist() == ENDS
        assert (store.eos_id, store.vocab_size) == (-1, 1 << (16 if code == 8 else 31))
        with pytest.raises(ConfigError, match="has no tokenizer"):
            _ = store.tokenizer
        with pytest.raises(OrderError):
            store.gather([12], 5)
    assert not [p for p in tmp_path.iterdir() if p.suffix not in (".bin", ".idx")], "nothing was written"


def test_a_tokenizer_can_be_named(tmp_path):
    write_pair(tmp_path / "corpus", DOCUMENTS)
    store = Store.open(tmp_path / "corpus", tokenizer="byte")
    assert (store.eos_id, store.vocab_size, store.tokenizer.name) == (256, 257, "byte")
    assert verify_store(store) == 2 * 16
    tokens, ends = sample_tokens(50)
    make_store(tmp_path / "own", tokens, ends)
    with pytest.raises(ConfigError, match="has its own tokenizer"):
        Store.open(tmp_path / "own", tokenizer="byte")


def test_a_directory_of_pairs_is_one_stream_in_the_order_of_their_names(tmp_path):
    second = write_pair(tmp_path / "b", [[[7, 256]]])
    first = write_pair(tmp_path / "a", DOCUMENTS)
    store = Store.open(tmp_path)
    assert np.array_equal(store.read(0, 18), np.append(first, second))
    assert np.array_equal(store.gather([14], 4)[0], np.append(first, second)[14:18])
    assert store.document_ends(0, 18).tolist() == [*ENDS, 18]
    assert [entry.name for entry in store.shards] == ["a", "b"]
    write_pair(tmp_path / "c", [[[7]]], code=4)
    with pytest.raises(ManifestError, match="ids of several types"):
        Store.open(tmp_path)


def test_the_fingerprint_changes_with_ids_documents_and_tokenizer(tmp_path):
    write_pair(tmp_path / "corpus", DOCUMENTS)
    one = Store.open(tmp_path / "corpus").fingerprint
    assert one == Store.open(tmp_path / "corpus.bin").fingerprint
    assert one != Store.open(tmp_path / "corpus", tokenizer="byte").fingerprint
    write_pair(tmp_path / "corpus", [[[5, 6, 7, 256, 1, 256]], *DOCUMENTS[2:]])
    other = Store.open(tmp_path / "corpus").fingerprint
    assert other != one
    write_pair(tmp_path / "corpus", [[[5, 6, 8, 256, 1, 256]], *DOCUMENTS[2:]])
    assert Store.open(tmp_path / "corpus").fingerprint not in (one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda idx: b"", "0 bytes, an index has at least 34"),
        (lambda idx: idx[:20], "Truncated"),
        (lambda idx: idx[:-1], "take"),
        (lambda idx: idx + b"\0", "take"),
        (lambda idx: b"X" + idx[1:], "begins with"),
        (lambda idx: idx[:9] + struct.pack("<Q", 2) + idx[17:], "version 2"),
        (lambda idx: idx[:17] + b"\x06" + idx[18:], "type 6; expected an integer type"),
        (lambda idx: idx[:18] + struct.pack("<Q", 1 << 60) + idx[26:], "take"),
        (lambda idx: idx[:26] + struct.pack("<Q", 0) + idx[34:], "take"),
        (lambda idx: idx[:34] + struct.pack("<i", 40) + idx[38:], "lengths sum to"),
        (lambda idx: idx[:34] + struct.pack("<i", -1) + idx[38:], "lengths sum to"),
        (lambda idx: idx[:66] + struct.pack("<q", 2) + idx[74:], "do not follow each other"),
        (lambda idx: idx[:-8] + struct.pack("<q", 7) + idx[:0], "do not cover"),
    ],
)
def test_a_damaged_index_is_refused_by_name(tmp_path, change, message):
    write_pair(tmp_path / "corpus", DOCUMENTS)
    path = tmp_path / "corpus.idx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoreError, match=rf"corpus\.idx.*({message})"):
        Store.open(tmp_path / "corpus").document_ends(0, 16)


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(30), bytes(34)])
def test_a_bin_of_another_length_is_refused(tmp_path, data):
    write_pair(tmp_path / "corpus", DOCUMENTS)
    (tmp_path / "corpus.bin").write_bytes(data)
    with pytest.raises(ShardError, match=r"corpus\.bin: \d+ bytes"):
        Store.open(tmp_path / "corpus")
    (tmp_path / "corpus.bin").unlink()
    with pytest.raises(ShardError, match=r"missing beside its \.idx"):
        Store.open(tmp_path / "corpus")


@pytest.mark.parametrize(("code", "dtype"), [(1, "uint16"), (2, "uint16"), (3, "uint16"), (5, "uint32")])
def test_a_pair_of_any_integer_type_is_read(tmp_path, code, dtype):
    top = {1: 255, 2: 127, 3: 32767, 5: 2**32 - 1}[code]
    documents = [[[1, 2, top]], [[0, top, 3, 4]], [[5]]]
    ids = write_pair(tmp_path / "corpus", documents, code=code)
    with Store.open(tmp_path / "corpus") as store:
        assert store.dtype == dtype
        assert np.array_equal(store.read(0, 8), ids)
        assert np.array_equal(store.gather([0, 1, 4], 4), ids[np.array([[0], [1], [4]]) + np.arange(4)])
        assert np.array_equal(store.lookup(np.array([[0, 4]]), 4).read(0), ids[[[0, 1, 2, 3], [4, 5, 6, 7]]])
        assert store.document_ends(0, 8).tolist() == [3, 7, 8]
        verify_store(store)


@pytest.mark.parametrize("bad", [-1, 2**32, -(2**63)])
def test_an_int64_id_out_of_range_is_an_error_that_names_the_file(tmp_path, bad):
    write_pair(tmp_path / "corpus", [[[1, bad, 2]]], code=5)
    with pytest.raises(ShardError, match=r"corpus\.bin: block 0 of 1: none data has ids from"):
        Store.open(tmp_path / "corpus").read(0, 3)


def test_ids_that_are_not_integers_are_refused(tmp_path):
    write_pair(tmp_path / "corpus", [[[1, 2]]], code=6)
    with pytest.raises(ManifestError, match="ids of type 6; expected an integer type"):
        Store.open(tmp_path / "corpus")


def test_a_relative_path_means_the_same_after_a_chdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = write_pair(tmp_path / "corpus", DOCUMENTS)
    store = Store.open("corpus")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert np.array_equal(store.read(0, 16), ids)
    assert store.document_ends(0, 16).tolist() == ENDS
    assert verify_store(pickle.loads(pickle.dumps(store))) == 32


@pytest.mark.parametrize("tokenizer", [None, "byte"])
def test_inspect_and_verify_work_with_and_without_a_tokenizer(tmp_path, capsys, tokenizer):
    write_pair(tmp_path / "corpus", DOCUMENTS)
    options = [] if tokenizer is None else ["--tokenizer", tokenizer]
    assert main(["inspect", str(tmp_path / "corpus.bin"), "--verify", "--json", *options]) in (0, None)
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["tokens"], report["tokenizer"]) == (5, 16, tokenizer)
    assert bool(report["samples"]) == (tokenizer is not None)


def test_a_negative_id_is_found_by_verify(tmp_path):
    write_pair(tmp_path / "corpus", [[[5, -1, 256]]], code=4)
    with pytest.raises(ShardError, match="the vocabulary has"):
        verify_store(Store.open(tmp_path / "corpus"))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("open_end", [False, True])
def test_a_store_is_written_as_the_layout_says(tmp_path, dtype, open_end):
    tokens, ends = sample_tokens(700, dtype=dtype)
    if open_end:
        ends = ends[:-1]
    make_store(tmp_path / "store", tokens, ends, sizes=[100, 350, 250])
    store = Store.open(tmp_path / "store")
    paths = export_megatron(store, tmp_path / "out" / "corpus")
    whole = [*ends, 700] if open_end else ends
    documents = [[tokens[a:b].tolist()] for a, b in zip([0, *whole[:-1]], whole, strict=True)]
    write_pair(tmp_path / "reference", documents, code=8 if dtype == "uint16" else 4)
    assert paths[0].read_bytes() == (tmp_path / "reference.bin").read_bytes()
    assert paths[1].read_bytes() == (tmp_path / "reference.idx").read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["corpus.bin", "corpus.idx"]
    again = Store.open(paths[0])
    assert np.array_equal(again.read(0, 700), tokens)
    assert again.document_ends(0, 700).tolist() == list(whole)


def test_progress_is_reported(tmp_path):
    tokens, ends = sample_tokens(700)
    make_store(tmp_path / "store", tokens, ends)
    calls = []
    export_megatron(Store.open(tmp_path / "store"), tmp_path / "c", progress=lambda *args: calls.append(args))
    assert calls == [(700, 700, "c.bin")]
