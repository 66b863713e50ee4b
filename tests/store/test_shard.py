"""A shard's files: the same bytes each time, and plain Arrow for everybody else."""

from __future__ import annotations

import errno
import os

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import ipc
from store_fakes import make_store, sample_tokens

from headrace.errors import ConfigError, ShardError, SpaceError
from headrace.store import Store, verify_store, write_shard

CODECS = ["none", "lz4", "zstd"]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_shard_opens_unchanged_in_pyarrow_and_polars(tmp_path, codec, dtype):
    tokens, ends = sample_tokens(1000, dtype=dtype)
    write_shard(tmp_path, "s", tokens, ends, codec=codec, block_tokens=64)
    path = tmp_path / "data" / "s.arrow"
    for source in (pa.memory_map(str(path)), pa.BufferReader(path.read_bytes())):
        reader = ipc.open_file(source)
        assert reader.schema == pa.schema([pa.field("tokens", getattr(pa, dtype)(), nullable=False)])
        assert reader.num_record_batches == (1 if codec == "none" else 16)
        table = reader.read_all()
        table.validate(full=True)
        assert np.array_equal(table["tokens"].to_numpy(), tokens)
        source.close()
    assert np.array_equal(pa.ipc.open_file(path).read_all()["tokens"].to_numpy(), tokens)
    assert np.array_equal(pl.read_ipc(path)["tokens"].to_numpy(), tokens)
    assert pl.read_ipc(tmp_path / "data" / "s.docs.arrow")["end"].to_list() == ends.tolist()
    index = pl.read_ipc(tmp_path / "data" / "s.index.arrow")
    assert index.columns == ["offset", "nbytes", "tokens", "first", "xxh3"]
    assert index["first"].to_list() == tokens[::64].tolist()


def test_an_uncompressed_body_is_one_stretch_of_aligned_bytes(tmp_path):
    tokens, ends = sample_tokens(1000)
    write_shard(tmp_path, "s", tokens, ends, codec="none", block_tokens=64)
    data = (tmp_path / "data" / "s.arrow").read_bytes()
    assert data.find(tokens.tobytes()) % 64 == 0
    table = ipc.open_file(pa.memory_map(str(tmp_path / "data" / "s.arrow"))).read_all()
    assert table["tokens"].num_chunks == 1


def test_metadata_stands_beside_the_document_ends(tmp_path):
    tokens, ends = sample_tokens(300)
    meta = pa.table({
        "url": pa.chunked_array([pa.array([f"u{i}" for i in range(len(ends) - 1)]), pa.array([None], pa.string())]),
        "score": pa.array(np.linspace(0, 1, len(ends))),
    })  # fmt: skip
    write_shard(tmp_path, "s", tokens, ends, metadata=meta)
    table = ipc.open_file(tmp_path / "data" / "s.docs.arrow").read_all()
    assert table.column_names == ["end", "url", "score"]
    assert table["url"].to_pylist() == meta["url"].to_pylist()
    assert table["end"].to_pylist() == ends.tolist()


def test_a_store_with_metadata_knows_its_documents(tmp_path):
    tokens, ends = sample_tokens(300)
    meta = pa.table({"n": pa.array(np.arange(len(ends)))})
    from store_fakes import BYTE

    from headrace.store import commit_store

    commit_store(tmp_path, [write_shard(tmp_path, "s", tokens, ends, metadata=meta)], tokenizer=BYTE)
    store = Store.open(tmp_path)
    assert store.document_ends(0, 300).tolist() == ends.tolist()
    assert verify_store(store) == store.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "gzip"}, "codec 'gzip', expected one of none, lz4, zstd"),
        ({"block_tokens": 0}, "block_tokens 0"),
        ({"tokens": np.zeros(3, np.int64)}, "tokens are int64"),
        ({"tokens": np.zeros((2, 2), np.uint16)}, r"uint16 \[2, 2\]"),
        ({"tokens": np.zeros(0, np.uint16)}, "n >= 1"),
        ({"document_ends": [0]}, "ascend within 1 to 5"),
        ({"document_ends": [6]}, "ascend within 1 to 5"),
        ({"document_ends": [3, 3]}, "ascend within 1 to 5"),
        ({"document_ends": [4, 2]}, "ascend within 1 to 5"),
        ({"metadata": pa.table({"a": [1, 2]})}, "one row for each of the 1 document ends"),
        ({"metadata": pa.table({"end": [1]})}, "no column named 'end'"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(tmp_path, change, message):
    good = {"tokens": np.zeros(5, np.uint16), "document_ends": [5]}
    with pytest.raises(ConfigError, match=message):
        write_shard(tmp_path, "s", **(good | change))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/a", ".a", "a\0", "é", "a" * 129, "a.index", "a.docs.b"]
)
def test_a_shard_name_that_could_leave_the_store_is_refused(tmp_path, name):
    with pytest.raises(ShardError, match="shard name"):
        write_shard(tmp_path, name, np.zeros(5, np.uint16), [5])


class FullDisk:
    """A device with so many free bytes."""

    def __init__(self, free):
        self.free = free

    def write_all(self, handle, data):
        taken = bytes(data)[: self.free]
        os.write(handle, taken)
        self.free -= len(taken)
        if len(taken) < memoryview(data).nbytes:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("free", [0, 100, 500, 1500, 2500])
def test_a_full_disk_is_an_error_and_complete_files_stay(tmp_path, monkeypatch, free):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends)
    disk = FullDisk(free)
    with monkeypatch.context() as patch:
        patch.setattr("headrace.storage.files.write_all", disk.write_all)
        with pytest.raises(SpaceError, match=r"no space left on the device.*Nothing that was complete"):
            make_store(tmp_path, tokens, ends, sizes=[100, 200], prefix="next", codec="none")
    assert not list(tmp_path.rglob("*.tmp"))
    store = Store.open(tmp_path)
    assert np.array_equal(store.read(0, 300), tokens)
    make_store(tmp_path, tokens, ends, sizes=[100, 200], prefix="next", codec="none")
    assert Store.open(tmp_path).num_shards == 2
