"""A call that differs between operating systems -> one function that works on each, with a fallback.

Linux is the first platform, macOS the second. Other modules call these functions instead of `fcntl`,
`os.sched_getaffinity`, `/proc` and the like, so that importing headrace and its pure-Python paths work on both.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Final


def _optional(module: str) -> Any:
    """A module of the standard library that only POSIX systems have; None elsewhere."""
    try:
        return import_module(module)
    except ImportError:
        return None


_fcntl: Final = _optional("fcntl")
_resource: Final = _optional("resource")


def available_cores() -> int:
    """CPU cores that this process may use, at least 1: by affinity, and by its control groups' quota, rounded up."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of processor time that the control groups of this process may use; None where there is no limit.

    The tightest of the process's own group and of those above it, in both versions of the kernel's interface:
    `cpu.max` (2), and `cpu.cfs_quota_us` with `cpu.cfs_period_us` (1).

    Args:
        root: directory that holds proc and the mounted hierarchies.
    """
    return min(_cpu_quotas(root), default=None)


def _cpu_quotas(root: Path) -> Iterator[float]:
    try:
        groups = (
            (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        )
        mounts = (
            (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        )
    except OSError:
        return
    group_of: dict[str, str] = {}
    for line in groups:  # hierarchy:controllers:path
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        group_of.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:  # id parent device root point options ... - type source options
        fields, _, rest = line.partition(" - ")
        mounted, point = (*fields.split(), *[""] * 5)[3:5]
        kind, _, options = (*rest.split(), "", "", "")[:3]
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller not in group_of or (controller and controller not in options.split(",")):
            continue
        group = PurePosixPath(group_of[controller])
        # A container without a namespace of its own sees the host's path, and its own group at the mount's root.
        inside = (
            group.relative_to(mounted if group.is_relative_to(mounted) else "/")
            if group.is_absolute()
            else group
        )
        for folder in (inside, *inside.parents):
            quota = _quota_of(root / point.lstrip("/") / folder)
            if quota is not None and ".." not in folder.parts:
                yield quota


def _quota_of(folder: Path) -> float | None:
    """Cores' worth of one control group; None without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (
            (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
        )
        return None if int(quota) <= 0 else int(quota) / int(period)
    return None


def limit_openmp_spinning() -> None:
    """Let OpenMP threads that wait for each other give up their core soon; works until torch is loaded.

    GNU's OpenMP spins for milliseconds, so that two jobs on one machine hold each other's cores: two of 6,000 short
    prompts took 176 s, and 11 s with this; a job alone is as fast. A value that the user has set stays.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def cpu_model() -> str | None:
    """Name of the CPU; None where the system does not say."""
    return _cpu_field("model name")


def cpu_vendor() -> str | None:
    """Vendor of the CPU, such as AuthenticAMD; None where the system does not say."""
    return _cpu_field("vendor_id")


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions of the CPU, by Linux's names; empty where the system does not say."""
    return frozenset((_cpu_field("flags", "features") or "").split())


def _cpu_field(*names: str) -> str | None:
    """The first field of /proc/cpuinfo with one of these names."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(names):
                return line.partition(":")[2].strip()
    return None


def total_memory_nbytes() -> int | None:
    """Bytes of physical memory; None where the system does not say."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def resident_memory_nbytes() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not say."""
    with suppress(AttributeError, ValueError, OSError, IndexError):
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def peak_memory_nbytes() -> int | None:
    """Most bytes of memory that this process has held; None where the system does not say."""
    if _resource is None:
        return None
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return int(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss) * unit


def machine_name() -> str | None:
    """Names this boot of this machine and its space of process numbers; None where the system does not say."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return None


def process_exists(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return pid < 1 << 31  # it belongs to another user
    return True


def max_memory_maps() -> int | None:
    """Memory maps that a process may hold; None where there is no such limit."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    return None


def max_file_nbytes() -> int | None:
    """Largest file that this process may write (ulimit -f); None where there is no limit."""
    if _resource is None:
        return None
    soft, _ = _resource.getrlimit(_resource.RLIMIT_FSIZE)
    return None if soft == _resource.RLIM_INFINITY else int(soft)


_MAX_BUFFERS = 512
"""Of one system call; Linux and macOS take 1,024."""


def lock_file(handle: int, *, wait: bool, shared: bool = False) -> bool:
    """Take the advisory lock of an open file, exclusive or shared; it ends with the process that holds it.

    A lock that is held already becomes the other kind; meanwhile another process may have had it.

    Without `fcntl` (not a POSIX system) nothing is locked, and the lock counts as taken.

    Args:
        handle: a file descriptor; closing it gives the lock back.
        wait: wait while another process holds it.
        shared: others may hold it too, if theirs is shared.

    Returns:
        Whether the lock was taken; always true with `wait`.
    """
    if _fcntl is None:
        return True
    try:
        kind = _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX
        _fcntl.flock(handle, kind if wait else kind | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_directory(path: str | os.PathLike[str]) -> int | None:
    """A file descriptor of a directory, for fsync or a lock; None where directories cannot be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0))


def read_at(handle: int, nbytes: int, offset: int) -> bytes:
    """Up to `nbytes` bytes of an open file from `offset` on; the file position is not used by `os.pread`."""
    if hasattr(os, "pread"):
        return os.pread(handle, nbytes, offset)
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, nbytes)


def read_at_into(handle: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill buffers from an open file from `offset` on; returns the number of bytes, fewer where the file ends."""
    left = [buffer for buffer in buffers if len(buffer)]
    done = 0
    while left:
        if hasattr(os, "preadv"):
            got = os.preadv(handle, left[:_MAX_BUFFERS], offset + done)
        else:
            part = read_at(handle, len(left[0]), offset + done)
            got = len(part)
            left[0][:got] = part
        if not got:
            break
        done += got
        while left and got >= len(left[0]):
            got -= len(left.pop(0))
        if left:
            left[0] = left[0][got:]
    return done


def read_ahead_more(handle: int) -> None:
    """Let the system read an open file further ahead (Linux: twice as far, 256 KiB for each reader).

    At 20 ms a read a mounted disk of the network gave 165 MB/s to 8 readers instead of 82.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # a pipe has nothing to read ahead
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def can_fork() -> bool:
    """Whether processes can be made by fork and go on safely: on Linux; macOS's own libraries forbid it."""
    return hasattr(os, "fork") and sys.platform != "darwin"


def after_fork_in_child(function: Callable[[], None]) -> None:
    """Call a function in each process that is made by fork, from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def raise_open_file_limit(files: int) -> None:
    """Let this process open so many files, as far as the system allows; nothing where there is no such limit."""
    if _resource is None:
        return
    soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    if soft < files:
        with suppress(OSError, ValueError):
            most = files if hard == _resource.RLIM_INFINITY else min(files, hard)
            _resource.setrlimit(_resource.RLIMIT_NOFILE, (most, hard))


def use_batch_scheduling() -> None:
    """Let the calling thread not interrupt others when it wakes up (SCHED_BATCH); nothing where that is missing.

    Its share of the processor stays the same.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def reserve_addresses(nbytes: int, *, writable: bool) -> mmap.mmap:
    """Addresses without memory: a page takes memory when it is first written.

    Args:
        nbytes: at least 1; may be more than the machine's memory.
        writable: whether the pages can be used; otherwise files can be mapped over them (`map_file_at`).

    Raises:
        OSError: more than the process may address, or the system cannot reserve addresses.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        raise OSError(errno.ENOSYS, "this system cannot reserve addresses")
    # Without MAP_NORESERVE (macOS has it without effect) the system may refuse more than its memory.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, nbytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE if writable else 0)


def map_file_at(address: int, nbytes: int, handle: int) -> None:
    """Map an open file, for reading, over reserved addresses.

    Raises:
        OSError: the system refuses.
    """
    libc = _libc()
    if libc.mmap(address, nbytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_MAP_FIXED: Final = 0x10
"""On Linux and macOS; Python's mmap module does not offer it."""


@lru_cache(maxsize=1)
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_longlong,
    ]
    return libc
