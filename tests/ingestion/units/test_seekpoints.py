"""A large .gz is entered at places in its middle: the same documents, from one pass over it."""

from __future__ import annotations

import gzip

import pytest

from headrace.ingestion import JobOptions, ingest
from headrace.ingestion.options import ContentOptions
from headrace.ingestion.read.open import Stream
from headrace.ingestion.read.sources import describe
from headrace.ingestion.units import seekpoints
from headrace.storage import open_blob

STEP = 256 << 10


@pytest.fixture
def large(tmp_path, make_documents, write_jsonl):
    """Two megabytes of JSON lines in one member."""
    return write_jsonl(tmp_path / "large.jsonl.gz", make_documents(4000))


@pytest.fixture
def found(large, tmp_path):
    """The source, options that cut it into units, and the blob that has its seek points."""
    options, blob = ContentOptions(shard_text_bytes=STEP), open_blob(tmp_path / "place")
    source = describe(str(large))
    assert seekpoints.may_have(source, options)
    assert seekpoints.find(source, blob)
    return source, options, blob


def test_a_file_entered_anywhere_gives_the_same_bytes(found, large):
    source, options, blob = found
    whole = gzip.decompress(large.read_bytes())
    points = seekpoints.load(source, options, blob)
    for start in (1, 4095, len(whole) // 2, len(whole) - 1):
        stream = Stream(source.url, "gzip", start=start, seek_points=points)
        got = bytearray(100)
        n = stream.readinto(memoryview(got))
        assert bytes(got[:n]) == whole[start : start + n]
        assert n > 0
        assert 0 < stream.stored_position() <= source.nbytes
        stream.close()


def test_the_bytes_are_the_same_with_and_without_seek_points(tmp_path, large, tree, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        seekpoints, "load", lambda *args, load=seekpoints.load: loaded.append(load(*args)) or loaded[-1]
    )
    ingest([large], tmp_path / "without", workers=1, job=JobOptions(shard_text_bytes=STEP))
    monkeypatch.setattr(seekpoints, "MIN_WORKERS", 1)
    ingest([large], tmp_path / "with", workers=1, job=JobOptions(shard_text_bytes=STEP))
    assert loaded[0] is None
    assert loaded[-1]
    ingest([large], tmp_path / "processes", workers=3, job=JobOptions(shard_text_bytes=STEP))
    assert tree(tmp_path / "with") == tree(tmp_path / "without") == tree(tmp_path / "processes")


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros behind"])
def test_a_damaged_file_has_no_seek_points(tmp_path, large, damage):
    data = bytearray(large.read_bytes())
    if damage == "cut":
        del data[-1:]
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data += bytes(100)
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(data)
    assert not seekpoints.find(describe(str(bad)), open_blob(tmp_path / "place"))


@pytest.mark.parametrize("name", ["small.jsonl.gz", "paragraphs.txt.gz", "plain.jsonl"])
def test_only_a_large_gzip_of_lines_has_them(tmp_path, name):
    small = name.startswith("small")
    data = b'{"text": "x"}\n' if small else b'{"text": "xyz"}\n' * 100_000
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    assert not seekpoints.may_have(
        describe(str(tmp_path / name)), ContentOptions(shard_text_bytes=1 << 10 if not small else STEP)
    )
