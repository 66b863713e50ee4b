"""Calls that only some systems have are guarded: taken away, the fallback works and nothing fails at import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from headrace import platform


@pytest.fixture
def bare(monkeypatch):
    """A system without /proc and without the calls that only Linux or POSIX have."""
    monkeypatch.setattr("pathlib.Path.read_text", _missing)
    monkeypatch.setattr("pathlib.Path.read_bytes", _missing)
    for name in ("sched_getaffinity", "sysconf", "O_DIRECTORY", "pread", "register_at_fork", "SCHED_BATCH"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(platform, "_fcntl", None)
    monkeypatch.setattr(platform, "_resource", None)


def _missing(*_, **__):
    raise FileNotFoundError


def test_without_a_call_its_fallback_answers(bare, tmp_path):
    assert platform.available_cores() >= 1
    assert platform.cpu_model() is None
    assert platform.cpu_flags() == frozenset()
    assert platform.total_memory_nbytes() is None
    assert platform.resident_memory_nbytes() is None
    assert platform.peak_memory_nbytes() is None
    assert platform.max_memory_maps() is None
    assert platform.open_directory(tmp_path) is None
    platform.use_batch_scheduling()
    platform.after_fork_in_child(lambda: None)


def test_without_locks_a_lock_counts_as_taken(bare, tmp_path):
    handle = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    assert platform.lock_file(handle, wait=False)
    os.close(handle)


def test_bytes_are_read_at_an_offset_with_and_without_pread(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"0123456789")
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    assert platform.read_at(handle, 3, 4) == b"456"
    monkeypatch.delattr(os, "pread", raising=False)
    assert platform.read_at(handle, 3, 4) == b"456"
    os.close(handle)


def test_a_lock_is_held_by_one_handle_at_a_time(tmp_path):
    first, second = (os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR) for _ in range(2))
    assert platform.lock_file(first, wait=False)
    assert not platform.lock_file(second, wait=False)
    os.close(first)
    assert platform.lock_file(second, wait=False)
    os.close(second)


def test_a_process_that_has_ended_does_not_exist():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert platform.process_exists(os.getpid())
    assert not platform.process_exists(child.pid)
    assert not platform.process_exists(0)


def test_the_core_can_be_imported_where_posix_modules_are_missing():
    """As on a system without fcntl and resource."""
    code = (
        "import sys\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import os\n"
        "for name in ('sched_getaffinity', 'pread'):\n"
        "    vars(os).pop(name, None)\n"
        "import headrace.logs, headrace.order, headrace.store, headrace.load\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
