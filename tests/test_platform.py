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


V1 = "32 31 0:29 / /sys/fs/cgroup rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "expected"),
    [
        pytest.param("0::/a/b", V2, {"a/b/cpu.max": "150000 100000"}, 1.5, id="version 2"),
        pytest.param("0::/", V2, {"cpu.max": "50000 100000"}, 0.5, id="version 2 in a namespace of its own"),
        pytest.param(
            "0::/a/b", V2, {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2, id="the group above"
        ),
        pytest.param("0::/a/b", V2, {"a/cpu.max": "max 100000", "a/b/cpu.max": "max 100000"}, None, id="no limit"),
        pytest.param("4:cpu,cpuacct:/a", V1, {"a/cpu.cfs_quota_us": "300000", "a/cpu.cfs_period_us": "100000"}, 3,
                     id="version 1"),
        pytest.param(
            "4:cpuacct,cpu:/a/b",
            V1,
            {"a/cpu.cfs_quota_us": "100000", "a/cpu.cfs_period_us": "50000",
             "a/b/cpu.cfs_quota_us": "-1", "a/b/cpu.cfs_period_us": "100000"},
            2,
            id="version 1: the group above",
        ),
        pytest.param(
            "4:cpu:/docker/7f", V1.replace(" / ", " /docker/7f "),
            {"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}, 2.5, id="version 1 in a container",
        ),
        pytest.param(
            "4:cpu:/a\n0::/x", f"{V1}\n{V2}",
            {"a/cpu.cfs_quota_us": "300000", "a/cpu.cfs_period_us": "100000", "x/cpu.max": "100000 100000"}, 1,
            id="both",
        ),
        pytest.param("3:memory:/a", V1, {"a/cpu.cfs_quota_us": "1", "a/cpu.cfs_period_us": "1"}, None, id="no cpu"),
        pytest.param("0::/../../x", V2, {"cpu.max": "100000 100000"}, 1, id="a group outside the namespace"),
        pytest.param("0::/a", V2, {"a/cpu.max": "", "cpu.max": "100000 100000"}, 1, id="an empty file"),
        pytest.param("4:cpu:/a", V1, {"a/cpu.cfs_quota_us": "9", "a/cpu.cfs_period_us": "0"}, None, id="no period"),
        pytest.param("garbage\n::\n", "garbage - x\n - \n", {}, None, id="neither"),
    ],
)  # fmt: skip
def test_the_quota_is_the_tightest_of_the_control_groups_of_both_versions(
    tmp_path, monkeypatch, cgroup, mounts, files, expected
):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert platform.cpu_quota(tmp_path) == expected


def test_without_proc_there_is_no_quota(tmp_path):
    assert platform.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.5, 1), (1.5, 2), (2, 2), (64, 8)])
def test_available_cores_are_those_of_the_affinity_within_the_quota(monkeypatch, quota, expected):
    """Whatever counts workers, decoders and threads asks here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(platform, "cpu_quota", lambda: quota)
    assert platform.available_cores() == expected


@pytest.mark.parametrize("package", ["headrace.generation", "headrace.training"])
@pytest.mark.parametrize("users", [None, "77"])
def test_openmp_threads_spin_shortly_in_all_that_computes(package, users):
    """Set before torch is loaded, which reads it once; a user's own value stays."""
    code = f"import os, sys, {package}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if users is not None:
        environment["GOMP_SPINCOUNT"] = users
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == [users or "1000", "False"]
