"""Files under /proc -> processor seconds, bytes and what each thread is doing in the kernel; nothing elsewhere.

A figure that the system does not give (another system, a sandbox) is zero or "unknown": nothing is guessed.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast

KernelState = Literal[
    "running", "disk", "file", "socket", "pipe", "lock", "sleep", "poll", "other", "unknown"
]

# Numbers of system calls: asm/unistd_64.h, asm-generic/unistd.h.
_CALLS: Final[dict[str, dict[int, str]]] = {
    "x86_64": {
        **dict.fromkeys((0, 17, 19, 295, 1, 18, 20, 296, 40), "fd"),
        **dict.fromkeys((42, 43, 44, 45, 46, 47, 288), "socket"),
        202: "lock",
        **dict.fromkeys((35, 230), "sleep"),
        **dict.fromkeys((7, 23, 232, 270, 271, 281), "poll"),
    },
    "aarch64": {
        **dict.fromkeys((63, 65, 67, 69, 64, 66, 68, 70, 71), "fd"),
        **dict.fromkeys((203, 202, 206, 207, 211, 212, 242), "socket"),
        98: "lock",
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
    task = f"/proc/{pid}/task/{tid}"
    stat = read_text(f"{task}/stat").rpartition(")")[2].split()
    if not stat:
        return "unknown"
    if stat[0] == "D":
        return "disk"
    call = read_text(f"{task}/syscall").split()
    if stat[0] == "R" or (call and call[0] == "running"):
        return "running"
    if not call or not call[0].isdigit():
        return "other" if call else "unknown"
    kind = _CALLS.get(platform.machine(), {}).get(int(call[0]), "other")
    return _descriptor(pid, int(call[1], 16)) if kind == "fd" else cast("KernelState", kind)


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
    disk_bytes: int = 0
    """Bytes that this process and its descendants had fetched from disk."""
    read_bytes: int = 0
    """Bytes that they read by system calls, page cache included."""
    network_bytes: int = 0
    """Bytes that the machine received, loopback included."""
    idle_s: float = 0.0
    """Seconds that the machine's cores were idle, summed."""
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
    return Usage(
        threads_s=threads,
        workers_s=workers,
        disk_bytes=sum(one.get("read_bytes", 0) for one in io),
        read_bytes=sum(one.get("rchar", 0) for one in io),
        network_bytes=_received_bytes(),
        idle_s=_idle_s(),
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


def _idle_s() -> float:
    words = read_text("/proc/stat").partition("\n")[0].split()
    return (int(words[4]) + int(words[5])) / _TICKS if len(words) > 5 else 0.0


def _pressure_s(name: str) -> float:
    _, found, rest = read_text(f"/proc/pressure/{name}").partition("total=")
    return int(rest.split()[0]) / 1e6 if found else 0.0
