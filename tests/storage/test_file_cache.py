"""Fetched files are whole and checked, or fetched again: after a kill, with damage, for many processes, in a bound."""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest
import xxhash
from storage_fakes import FlakyBlob

from headrace.errors import ConfigError, StorageError
from headrace.storage import DamagedFileError, FileCache, MemoryBlob, RemoteFile

FILES = {"a.bin": bytes(range(256)) * 100, "b/c.bin": b"small", "empty": b""}


@pytest.fixture
def blob(request):
    inner = MemoryBlob(request.node.nodeid)
    for name, data in FILES.items():
        inner.put(name, data)
    return FlakyBlob(inner)


def remote_files(hashed=True):
    return [
        RemoteFile(name=n, nbytes=len(d), xxh3_128=xxhash.xxh3_128_hexdigest(d) if hashed else None)
        for n, d in FILES.items()
    ]


def assert_whole(path):
    assert {n: (path / n).read_bytes() for n in FILES} == FILES
    assert not list(path.rglob("*.part"))


@pytest.mark.parametrize("hashed", [True, False])
def test_files_are_fetched_once_and_progress_counts_every_byte(tmp_path, blob, hashed):
    seen = []
    path = FileCache(tmp_path, max_bytes=1 << 20).fetch(
        "k", blob, remote_files(hashed), progress=lambda *now: seen.append(now)
    )
    assert_whole(path)
    assert seen[-1][:2] == (25_605, 25_605)
    calls = len(blob.calls)
    assert FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files(hashed)) == path
    assert len(blob.calls) == calls


@pytest.mark.parametrize("hashed", [True, False])
def test_a_byte_that_changes_in_the_cache_is_found_and_only_that_file_is_fetched_again(
    tmp_path, blob, hashed, caplog
):
    path = FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files(hashed))
    data = bytearray(FILES["a.bin"])
    data[777] ^= 1
    (path / "a.bin").write_bytes(data)
    blob.calls.clear()
    with caplog.at_level(logging.WARNING, logger="headrace.cache"):
        assert_whole(FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files(hashed)))
    assert "a.bin: damaged or missing; it is fetched again" in caplog.text
    assert {call[1] for call in blob.calls} == {"a.bin"}


def test_bytes_that_are_damaged_on_the_way_are_fetched_again_and_at_last_refused(tmp_path, blob):
    flips = iter([True])
    blob.trouble = lambda number, operation, path: (lambda d: bytes(len(d))) if next(flips, False) else None
    assert_whole(FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files()))
    blob.trouble = lambda *_: lambda d: bytes(len(d))
    with pytest.raises(DamagedFileError, match=r"a\.bin: XXH3-128 [0-9a-f]{32}, expected [0-9a-f]{32}"):
        FileCache(tmp_path, max_bytes=1 << 20).fetch("k2", blob, remote_files())


@pytest.mark.parametrize("at", [1, 2])
def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_half_done(tmp_path, blob, at):
    child = os.fork()
    if not child:
        number = iter(range(1, 99))
        blob.trouble = lambda *_: os.kill(os.getpid(), signal.SIGKILL) if next(number) == at else None
        FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "k" / "complete.json").exists()
    blob.trouble = lambda *_: None
    assert_whole(FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files()))


def test_processes_that_need_the_same_files_at_once_fetch_them_once(tmp_path, blob):
    paths = []
    threads = [
        threading.Thread(
            target=lambda: paths.append(
                FileCache(tmp_path, max_bytes=1 << 20).fetch("k", blob, remote_files())
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6
    assert_whole(paths[0])
    assert sorted(call[1] for call in blob.calls) == ["a.bin", "b/c.bin"]


def test_the_least_recently_used_is_removed_and_what_is_in_use_never(tmp_path, blob):
    bound = 80_000  # three of them
    caches = {key: FileCache(tmp_path, max_bytes=bound) for key in "abcde"}
    for number, key in enumerate("abc"):
        path = caches[key].fetch(key, blob, remote_files())
        os.utime(path / "complete.json", ns=(number, number))
    caches["b"].release()
    caches["c"].release()
    caches["d"].fetch("d", blob, remote_files())
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {
        "a",
        "c",
        "d",
    }  # a is older than b, but in use
    caches["e"].fetch("e", blob, remote_files())
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a", "d", "e"}


def test_directories_of_the_user_are_never_removed(tmp_path, blob):
    """$HEADRACE_CACHE_DIR/models may be where the user's own models are."""
    for name in ("llama", "half/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(bytes(100_000))
    FileCache(tmp_path, max_bytes=30_000).fetch("k", blob, remote_files())
    FileCache(tmp_path, max_bytes=30_000).fetch("k2", blob, remote_files())
    assert (tmp_path / "llama" / "model.safetensors").stat().st_size == 100_000
    assert (tmp_path / "half" / "deep" / "model.safetensors").stat().st_size == 100_000


def test_files_that_do_not_fit_are_refused_before_anything_is_read(tmp_path, blob):
    with pytest.raises(
        ConfigError, match=r"have 25,605 bytes, .* may hold 100\. Raise HEADRACE_CACHE_DIR_BYTES"
    ):
        FileCache(tmp_path, max_bytes=100).fetch("k", blob, remote_files())
    assert not blob.calls


@pytest.mark.parametrize("name", ["../x", "/etc/x"])
def test_a_name_that_leaves_the_directory_is_refused(tmp_path, blob, name):
    with pytest.raises(ConfigError, match="relative name without"):
        FileCache(tmp_path, max_bytes=100).fetch("k", blob, [RemoteFile(name=name, nbytes=1)])


def test_a_directory_that_cannot_be_used_is_refused_by_its_name_with_the_cure(tmp_path, blob):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/cache.*HEADRACE_CACHE_DIR"):
        FileCache(tmp_path / "file" / "cache", max_bytes=1 << 20).fetch("k", blob, remote_files())


def test_another_user_takes_the_files_of_the_cache(as_another_user, blob):
    shared = as_another_user.path
    FileCache(shared, max_bytes=1 << 20).fetch("k", blob, remote_files())
    calls = len(blob.calls)
    with as_another_user():
        path = FileCache(shared, max_bytes=1 << 20).fetch("k", blob, remote_files())
        assert_whole(path)
        with pytest.raises(StorageError, match="permissions"):
            FileCache(shared, max_bytes=1 << 20).fetch("other", blob, remote_files())
    assert len(blob.calls) == calls
