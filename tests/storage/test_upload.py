"""Files that become objects: whole, counted, in bounded memory."""

import pytest
from storage_fakes import FakeClock, FlakyBlob, busy

from headrace.storage import MemoryBlob, Retry, RetryingBlob, open_blob, upload_file
from headrace.storage import upload as module


def test_a_file_is_sent_whole_and_counted(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789" * 100)
    blob, counted = open_blob("memory://upload-whole"), []
    upload_file(blob, "a/file", tmp_path / "file", count=counted.append)
    assert bytes(blob.get("a/file")) == b"0123456789" * 100
    assert sum(counted) == 1000


def test_a_file_is_sent_again_while_the_store_is_busy(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 10)
    memory = MemoryBlob("upload-busy")
    flaky = FlakyBlob(memory, lambda number, *_: busy() if number < 3 else None)
    upload_file(RetryingBlob(flaky, Retry(sleep=FakeClock().sleep)), "file", tmp_path / "file")
    assert bytes(memory.get("file")) == b"x" * 10


def test_what_the_count_raises_ends_the_upload(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    blob = MemoryBlob("upload-ended")

    def refuse(nbytes):
        raise KeyError(nbytes)

    with pytest.raises(KeyError):
        upload_file(blob, "file", tmp_path / "file", count=refuse)
    assert blob.list() == []


def test_a_large_file_is_sent_in_parts(s3_url, tmp_path, monkeypatch):
    """Three parts of the smallest size that S3 takes, and a short one."""
    monkeypatch.setattr(module, "PART_BYTES", 5 << 20)
    content = bytes(range(256)) * (61_441)
    (tmp_path / "file").write_bytes(content)
    blob, counted = open_blob(s3_url), []
    upload_file(blob, "file", tmp_path / "file", count=counted.append)
    assert bytes(blob.get("file")) == content
    assert counted == [5 << 20] * 3 + [256]
    with pytest.raises(KeyError):
        upload_file(blob, "ended", tmp_path / "file", count={}.__getitem__)
    assert blob.list() == ["file"]
