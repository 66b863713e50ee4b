"""Damaged and forged stores of samples: never other values, never a crash, always an error: verify.py, blocks.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xxhash
from sample_fakes import FEATURES, make_samples, same, sample_rows

from headrace.errors import HeadraceError, ManifestError, ShardError
from headrace.storage import open_blob
from headrace.store import SampleStore, commit_samples, verify_samples
from headrace.store.codec import DecodeError
from headrace.store.samples.block import buffers_of, decode_block, encode_block
from headrace.store.samples.columns import columns_of_rows
from headrace.store.samples.features import List, Value
from headrace.store.samples.manifest import parse_sample_manifest

ROWS = sample_rows(12)


def files(path):
    return [file for file in sorted(path.rglob("*")) if file.is_file()]


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_every_flipped_byte_is_found_by_verify(tmp_path, codec, step):
    """Each byte of each file in turn (without the campaign every 31st); the small files once."""
    features = {name: FEATURES[name] for name in ("image", "label", "boxes", "name")}
    make_samples(tmp_path, ROWS[:3], codec=codec, features=features)
    kinds = files(tmp_path) if codec == "none" else [tmp_path / "data/s0.arrow"]
    for file in kinds:
        data = file.read_bytes()
        for i in range(len(data) % step, len(data), step):
            file.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
            with pytest.raises((ShardError, ManifestError)):
                verify_samples(SampleStore.open(tmp_path))
        file.write_bytes(data)
    assert verify_samples(SampleStore.open(tmp_path)) > 0


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("url", ["local", "memory"], indirect=True)
def test_a_reader_never_gives_other_values(url, codec):
    """Bytes flipped and files cut: what is read is right, or an error."""
    make_samples(url, ROWS, codec=codec)
    blob, errors = open_blob(url), []
    for path in ("data/s0.arrow", "data/s0.index.arrow"):
        data = bytes(blob.get(path))
        for i in range(0, len(data), 499):
            for changed in (data[:i] + bytes([data[i] ^ 64]) + data[i + 1 :], data[:i]):
                blob.put(path, changed)
                try:
                    with SampleStore.open(url) as store:
                        assert all(same(store[row], ROWS[row]) for row in range(12))
                except HeadraceError as error:
                    errors.append(str(error))
        blob.put(path, data)
    assert errors
    assert all("s0" in error for error in errors)


def test_a_forged_block_is_refused_whatever_its_message_says():
    """Any byte of a block's metadata, with a checksum that fits: an error, or the same rows and types."""
    features = {"b": List(Value("int16")), "name": Value("string")}
    columns = columns_of_rows([{"b": [1, 2], "name": "x"}, {"b": [], "name": "yz"}], features)
    nodes, buffers = buffers_of(columns, features)
    for codec in ("none", "zstd"):
        stored = b"".join(encode_block(nodes, buffers, rows=2, codec=codec, at=0))
        assert decode_block(stored, features, rows=2).columns["b"][0].tolist() == [1, 2]
        for i in range(len(stored)):
            for bit in (0, 6):
                changed = stored[:i] + bytes([stored[i] ^ (1 << bit)]) + stored[i + 1 :]
                try:
                    block = decode_block(changed, features, rows=2)
                except DecodeError:
                    continue
                assert (len(block.columns["b"]), block.columns["b"].values.dtype) == (2, np.int16)
        for i in range(len(stored)):
            with pytest.raises(DecodeError):
                decode_block(stored[:i], features, rows=2)


def test_a_block_that_declares_far_more_than_it_has_is_not_allocated():
    features = {"name": Value("string")}
    nodes, buffers = buffers_of(columns_of_rows([{"name": "a" * 999}], features), features)
    stored = bytearray(b"".join(encode_block(nodes, buffers, rows=1, codec="zstd", at=0)))
    at = stored.rindex((999).to_bytes(8, "little"))
    stored[at : at + 8] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(DecodeError, match="declares"):
        decode_block(stored, features, rows=1)


def test_a_table_with_other_totals_or_names_is_refused(tmp_path):
    (entry,) = make_samples(tmp_path, ROWS)
    for change in ({"rows": 13}, {"blocks": 1}, {"data_nbytes": 100}, {"index_nbytes": 1 << 40}):
        commit_samples(tmp_path, [replace(entry, **change)], features=FEATURES)
        with pytest.raises((ShardError, ManifestError)):
            SampleStore.open(tmp_path)[0]
    commit_samples(tmp_path, [replace(entry, name="../../outside")], features=FEATURES)
    with pytest.raises(ShardError, match="shard name"):
        SampleStore.open(tmp_path)[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"_type": "Image"', '"_type": "Video"'),
        ('"dtype": "uint16"', '"dtype": "object"'),
        ('"shape": [', '"shape": [true, '),
        ('"kind": "samples"', '"kind": "pickles"'),
        ('"format_version": 2', '"format_version": 3'),
        ('"rows": 12', '"rows": -1'),
        ('"rows": 12', '"rows": true'),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path, old, new):
    make_samples(tmp_path, ROWS)
    text = (tmp_path / "manifest.json").read_text()
    assert old in text
    body = text.replace(old, new, 1).encode()[:-20]
    data = body + f"{xxhash.xxh3_64_intdigest(body):016x}".encode() + b'"\n}\n'
    with pytest.raises(ManifestError):
        parse_sample_manifest(data, where="manifest.json")
