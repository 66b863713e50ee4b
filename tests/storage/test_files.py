"""files.py, local.py, memory.py, opener.py: whole files, durable names, and errors of the disk as ours."""

from __future__ import annotations

import errno
import os

import pytest
from storage_fakes import PowerCut

from headrace.errors import HeadraceError, SpaceError, StorageError
from headrace.storage import LocalBlob, disk_errors, make_directory, open_blob, write_file
from headrace.storage.opener import absolute_url

CALLS = ["open", "write", "fsync", "replace", "link", "mkdir", "unlink"]


def failing(function, code, fails):
    def call(*args, **options):
        if fails(*args):
            raise OSError(code, os.strerror(code))
        return function(*args, **options)

    return call


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOSPC, errno.EDQUOT]
)
@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_any_call_of_a_write_is_ours_and_leaves_the_old_file(tmp_path, monkeypatch, name, code):
    """With the path and the cure, and no temporary file where the system allows its removal."""
    blob = LocalBlob(tmp_path / "place")
    blob.put("old", b"old")
    for operation in ("put", "put_if_absent", "delete"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(getattr(os, name), code, lambda *_: True))
            error = None
            try:
                if operation == "delete":
                    blob.delete("old")
                else:
                    getattr(blob, operation)("new/name", b"new")
            except HeadraceError as caught:
                error = caught
        if error is not None:
            assert isinstance(error, StorageError)
            assert isinstance(error, SpaceError) == (code in (errno.ENOSPC, errno.EDQUOT))
            assert str(tmp_path) in str(error)
            assert os.strerror(code) in str(error)
            assert "Nothing that was complete before has changed" in str(error)
        if name == "unlink" or operation != "delete":
            assert bytes(blob.get("old")) == b"old"
        blob.put("old", b"old")
        blob.delete("new/name")


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_an_error_of_a_read_is_ours(tmp_path, monkeypatch, code):
    blob = LocalBlob(tmp_path)
    blob.put("x", b"1")
    monkeypatch.setattr(os, "open", failing(os.open, code, lambda *_: True))
    with pytest.raises(StorageError, match=os.strerror(code)):
        blob.get_range("x", 0, 1)


def test_each_error_names_its_cure():
    for code, cure in [
        (errno.EIO, "dmesg"),
        (errno.EROFS, "remount"),
        (errno.EACCES, "permissions"),
        (errno.ENOTDIR, "a part of the path is a file"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENOSPC, "free some space"),
        (errno.ENODEV, "check the path and the device"),
    ]:
        with pytest.raises(StorageError, match=r"(?i)/a/b: .*" + cure), disk_errors("/a/b"):
            raise OSError(code, os.strerror(code))


def test_a_path_through_a_file_is_refused_with_the_path(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="A part of the path is a file"):
        open_blob(tmp_path / "file" / "store").put("x", b"")


def test_a_new_directory_and_its_parents_are_durable(tmp_path, monkeypatch):
    disk = PowerCut(tmp_path)
    disk.patch(monkeypatch)
    make_directory(tmp_path / "a" / "b" / "c")
    write_file(tmp_path / "a" / "b" / "c" / "file", b"text")
    left = disk.survivors(tmp_path.parent / f"{tmp_path.name}-left")
    assert (left / "a" / "b" / "c" / "file").read_bytes() == b"text"


def test_a_directory_that_another_process_made_and_did_not_sync_is_made_durable(tmp_path, monkeypatch):
    disk = PowerCut(tmp_path)
    disk.patch(monkeypatch)
    (tmp_path / "store" / "data").mkdir(parents=True)  # as a process that was killed before its fsync
    LocalBlob(tmp_path / "store").put("data/x", b"text")
    left = disk.survivors(tmp_path.parent / f"{tmp_path.name}-left")
    assert (left / "store" / "data" / "x").read_bytes() == b"text"


def test_of_two_writers_of_one_file_the_last_one_wins_and_readers_see_whole_files(tmp_path):
    import threading

    def write(value):
        for _ in range(50):
            write_file(tmp_path / "x", bytes([value]) * 1000)

    threads = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "x").exists():
            data = (tmp_path / "x").read_bytes()
            assert len(data) == 1000
            assert len(set(data)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_relative_path_means_the_same_after_a_chdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blob = open_blob("place")
    blob.put("x", b"1")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    assert bytes(blob.get("x")) == b"1"
    assert blob.url == str(tmp_path / "place")
    assert absolute_url("s3://a/b") == "s3://a/b"
