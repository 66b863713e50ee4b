"""Calls that only some systems have are guarded: taken away, the fallback works and nothing fails at import."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from headrace import platform

WITHOUT = """
import builtins, importlib, mmap, os, pathlib, sys

hidden = {"fcntl", "resource"}
real_import = builtins.__import__
def refuse(name, *args, **options):
    if name.partition(".")[0] in hidden:
        raise ImportError(name)
    return real_import(name, *args, **options)
real_import_module = importlib.import_module
def refuse_module(name, package=None):
    if name in hidden:
        raise ImportError(name)
    return real_import_module(name, package)

# What macOS and other systems do not have. Modules of the standard library that need them are loaded first.
import subprocess, tempfile, multiprocessing, asyncio, concurrent.futures, pyarrow, numpy
for name in hidden:
    sys.modules.pop(name, None)
builtins.__import__ = refuse
importlib.import_module = refuse_module
for name in ("sched_getaffinity", "memfd_create", "posix_fadvise", "SCHED_BATCH", "sched_setscheduler",
             "sched_getscheduler", "O_DIRECTORY", "register_at_fork", "pread", "fork", "copy_file_range", "sysconf"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("MAP_ANONYMOUS", "MAP_NORESERVE") if {no_maps} else ("MAP_NORESERVE",):
    if hasattr(mmap, name):
        delattr(mmap, name)
real_open = builtins.open
def no_proc(function):
    def call(path, *args, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "no such file", str(path))
        return function(path, *args, **options)
    return call
builtins.open = no_proc(builtins.open)
pathlib.Path.open = no_proc(pathlib.Path.open)
pathlib.Path.read_text = no_proc(pathlib.Path.read_text)
pathlib.Path.read_bytes = no_proc(pathlib.Path.read_bytes)
"""

USE = """
import headrace as hr
import numpy as np
import headrace.ingestion, headrace.load, headrace.sink, headrace.store, headrace.profile, headrace.cli
from headrace import platform
from headrace.load import BatchOptions
from headrace.store import commit_store, verify_store, write_shard

tokens = (np.arange(5000) % 250).astype(np.uint16)
tokens[-1] = 256
for codec in ("none", "zstd"):
    place = sys.argv[1] + "/" + codec
    entry = write_shard(place, "s0", tokens, [5000], codec=codec, block_tokens=64)
    commit_store(place, [entry], tokenizer=hr.load_tokenizer("byte"))
    with hr.Store.open(place) as store:
        verify_store(store)
        output = BatchOptions(framework="numpy")
        batches = list(hr.Loader(store, seq_len=64, batch_size=8, seed=1, epochs=1, output=output))
        assert sum(len(b.input_ids) for b in batches) == 78, len(batches)
        assert np.array_equal(store.read(100, 300), tokens[100:300])
assert platform.available_cores() >= 1
assert platform.resident_memory_nbytes() is None and platform.peak_memory_nbytes() is None
assert platform.max_memory_maps() is None and platform.cpu_model() is None
print("used")
"""


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


@pytest.mark.parametrize("no_maps", [False, True])
def test_the_package_imports_and_loads_without_what_only_linux_has(tmp_path, no_maps):
    code = textwrap.dedent(WITHOUT.replace("{no_maps}", str(no_maps)) + USE)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "used\n"


def test_numbers_of_this_machine_are_plausible():
    assert platform.available_cores() >= 1
    for value in (
        platform.total_memory_nbytes(),
        platform.resident_memory_nbytes(),
        platform.peak_memory_nbytes(),
    ):
        assert value is None or 1 << 20 < value < 1 << 50
