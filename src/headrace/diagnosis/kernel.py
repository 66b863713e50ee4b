"""Files under /proc -> processor seconds, bytes and what each thread is doing in the kernel; nothing elsewhere.

A figure that the system does not give (another system, a sandbox) is zero or "unknown": nothing is guessed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, cast

KernelState = Literal[
    "running", "disk", "file", "socket", "pipe", "lock", "gil", "sleep", "poll", "other", "unknown"
]

# Numbers of system calls: asm/unistd_64.h, asm-generic/unistd.h.
_CALLS: Final[dict[str, dict[int, str]]] = {
    "x86_64": {
        **dict.fromkeys((0, 17, 19, 295, 1, 18, 20, 296, 40), "fd"),
        **dict.fromkeys((42, 43, 44, 45, 46, 47, 288), "socket"),
        202: "lock",
        **dict.fromkeys((208, 333, 426), "file"),  # io_getevents, io_pgetevents, io_uring_enter
        **dict.fromkeys((35, 230), "sleep"),
        **dict.fromkeys((7, 23, 232, 270, 271, 281), "poll"),
    },
    "aarch64": {
        **dict.fromkeys((63, 65, 67, 69, 64, 66, 68, 70, 71), "fd"),
        **dict.fromkeys((203, 202, 206, 207, 211, 212, 242), "socket"),
        98: "lock",
        **dict.fromkeys((4, 292, 426), "file"),
        **dict.fromkeys((101, 115), "sleep"),
        **dict.fromkeys((22, 72, 73), "poll"),
    },
}
_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def read_text(path: str) -> str:
    """A file of /proc; empty where it is missing or forbidden."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(handle, 1 << 16).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(handle)


def kernel_state(pid: int, tid: int) -> KernelState:
    """What a thread is doing: on the processor, or in which kind of wait."""
    return _state(pid, tid, read_text(f"/proc/{pid}/task/{tid}/syscall"))


def _state(pid: int, tid: int, syscall: str) -> KernelState:
    words = syscall.split()
    if words and words[0] == "running":
        return "running"
    kind = _CALLS.get(platform.machine(), {}).get(int(words[0]), "other") if len(words) > 6 else "other"
    if kind == "fd":
        return _descriptor(pid, int(words[1], 16))
    if kind == "lock" and pid == os.getpid() and _is_gil(int(words[1], 16), timeout=int(words[4], 16)):
        return "gil"
    return cast("KernelState", kind) if kind != "other" else _state_by_letter(pid, tid, bool(words))


def _state_by_letter(pid: int, tid: int, sleeps_visibly: bool) -> KernelState:
    letter = read_text(f"/proc/{pid}/task/{tid}/stat").rpartition(")")[2].strip()[:1]
    if letter == "D":
        return "disk"
    if letter == "R":
        return "running"
    return "other" if letter and sleeps_visibly else "unknown"


class OwnThreads:
    """States of threads of this process, all of one moment: files stay open, and the GIL is kept while they are read.

    A thread that gives up the GIL to read waits up to 5 ms for it beside a thread of Python work.
    """

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._schedules: dict[int, ScheduleFile] = {}
        self._buffer = ctypes.create_string_buffer(256)

    def schedule(self, tid: int) -> Schedule:
        """The counters of a thread now; zeros where the system has none."""
        if tid not in self._schedules:
            self._schedules[tid] = ScheduleFile(tid)
        return self._schedules[tid].read()

    def state(self, tid: int) -> KernelState:
        """What a thread is doing."""
        file = self._files.get(tid)
        if file is None:
            try:
                file = os.open(f"/proc/self/task/{tid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return kernel_state(os.getpid(), tid)
            self._files[tid] = file
        size = _read_at_start(file, self._buffer)
        if size <= 0:  # the thread has ended
            os.close(self._files.pop(tid))
            return kernel_state(os.getpid(), tid)
        return _state(os.getpid(), tid, self._buffer.raw[:size].decode("ascii", "replace"))

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])
        while self._schedules:
            self._schedules.popitem()[1].close()


@cache
def _pread() -> Any:
    """The C library's pread, called with the GIL held; None where there is none."""
    try:
        function = ctypes.PyDLL(None).pread
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64)
    function.restype = ctypes.c_ssize_t
    return function


def _read_at_start(file: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    function = _pread()
    return int(function(file, buffer, len(buffer), 0)) if function is not None else -1


def _is_gil(futex: int, *, timeout: int) -> bool:
    """Whether a futex of this process is the GIL's condition: it lies in the interpreter's static memory.

    A wait for the GIL always has a timeout, the switch interval; a lock of `threading` lies on the heap.
    """
    region = _interpreter_memory()
    return timeout != 0 and (region is None or futex in region)


@cache
def _interpreter_memory() -> range | None:
    """Addresses of the mapping that holds the interpreter's state; None where the symbol is not exported."""
    try:
        state = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            low, high = (int(word, 16) for word in line.partition(" ")[0].split("-"))
            if low <= state < high:
                return range(low, high)
    except (AttributeError, OSError, ValueError):
        pass
    return None


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a thread has spent the time that it had work for."""

    cpu_s: float = 0.0
    core_wait_s: float = 0.0
    """Seconds that it waited for a core; 0 where the kernel does not count them."""


def read_schedule(pid: int, tid: int) -> Schedule:
    """The counters of one thread now."""
    return _schedule(read_text(f"/proc/{pid}/task/{tid}/schedstat"))


def _schedule(text: str) -> Schedule:
    words = text.split()
    return Schedule(int(words[0]) / 1e9, int(words[1]) / 1e9) if len(words) > 1 else Schedule()


class ScheduleFile:
    """The counters of one thread of this process, for reading often: the file stays open."""

    def __init__(self, tid: int) -> None:
        self._buffer = ctypes.create_string_buffer(256)
        try:
            self._file: int | None = os.open(f"/proc/self/task/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def read(self) -> Schedule:
        """The counters now; zeros where the system has none."""
        size = _read_at_start(self._file, self._buffer) if self._file is not None else 0
        return _schedule(self._buffer.raw[:size].decode("ascii", "replace")) if size > 0 else Schedule()

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _descriptor(pid: int, number: int) -> KernelState:
    try:
        target = str(Path(f"/proc/{pid}/fd/{number}").readlink())
    except OSError:
        return "other"
    if target.startswith("socket:"):
        return "socket"
    return "pipe" if target.startswith("pipe:") else "file" if target.startswith("/") else "other"


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        for task in _tasks(parent):
            children = [int(word) for word in read_text(f"/proc/{parent}/task/{task}/children").split()]
            found += children
            pending += children
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  # names are all that is needed
    except OSError:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counters of this process, its descendants and the machine at one moment."""

    threads_s: dict[str, float] = field(default_factory=dict)
    """Processor seconds of this process's threads: "name (id)" -> seconds."""
    workers_s: dict[int, float] = field(default_factory=dict)
    """Processor seconds of each descendant."""
    core_wait_s: dict[int, float] = field(default_factory=dict)
    """Seconds that each thread of this process, and each descendant's first thread, waited for a core."""
    disk_bytes: int = 0
    """Bytes that this process and its descendants had fetched from disk."""
    read_bytes: int = 0
    """Bytes that they read by system calls, page cache included."""
    network_bytes: int = 0
    """Bytes that the machine received, loopback included."""
    idle_s: float = 0.0
    """Seconds that the machine's cores were idle, summed."""
    busy_s: float = 0.0
    """Seconds that they worked, for any process or for other virtual machines."""
    pressure_s: dict[str, float] = field(default_factory=dict)
    """Seconds in which some task waited for "cpu", "io", "memory" (PSI)."""


def read_usage(pid: int) -> Usage:
    """The counters now."""
    threads: dict[str, float] = {}
    for task in _tasks(pid):
        name = read_text(f"/proc/{pid}/task/{task}/comm").strip()
        threads[f"{name} ({task})"] = _cpu_s(f"/proc/{pid}/task/{task}/stat")
    workers = {child: _cpu_s(f"/proc/{child}/stat") for child in descendants(pid)}
    io = [_fields(f"/proc/{one}/io") for one in (pid, *workers)]
    idle_s, busy_s = _machine_s()
    return Usage(
        threads_s=threads,
        workers_s=workers,
        core_wait_s={int(task): read_schedule(pid, int(task)).core_wait_s for task in _tasks(pid)}
        | {child: read_schedule(child, child).core_wait_s for child in workers},
        disk_bytes=sum(one.get("read_bytes", 0) for one in io),
        read_bytes=sum(one.get("rchar", 0) for one in io),
        network_bytes=_received_bytes(),
        idle_s=idle_s,
        busy_s=busy_s,
        pressure_s={name: _pressure_s(name) for name in ("cpu", "io", "memory")},
    )


def _cpu_s(path: str) -> float:
    words = read_text(path).rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS if len(words) > 12 else 0.0


def _fields(path: str) -> dict[str, int]:
    pairs = (line.split(":") for line in read_text(path).splitlines() if ":" in line)
    return {name: int(value) for name, value in pairs if value.strip().isdigit()}


def _received_bytes() -> int:
    total = 0
    for line in read_text("/proc/net/dev").splitlines()[2:]:
        words = line.partition(":")[2].split()
        total += int(words[0]) if words else 0
    return total


def _machine_s() -> tuple[float, float]:
    """Seconds that the machine's cores were idle, and that they worked."""
    words = [int(word) for word in read_text("/proc/stat").partition("\n")[0].split()[1:]]
    if len(words) < 8:
        return 0.0, 0.0
    user, nice, system, idle, disk, *interrupts_and_stolen = words[:8]
    return (idle + disk) / _TICKS, (user + nice + system + sum(interrupts_and_stolen)) / _TICKS


def _pressure_s(name: str) -> float:
    _, found, rest = read_text(f"/proc/pressure/{name}").partition("total=")
    return int(rest.split()[0]) / 1e6 if found else 0.0
