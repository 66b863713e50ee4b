"""This machine -> the facts that a measured number needs beside it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, object]:
    """Processor, cores that this process may use, memory in bytes, system, Python and torch versions.

    The host's name is left out on purpose: reports are shared.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": _version("torch"),
    }


def _processor() -> str:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    # Read from the package's metadata: importing torch for its version would take seconds.
    from importlib.metadata import PackageNotFoundError, version

    loaded = sys.modules.get(package)
    if loaded is not None:
        return str(getattr(loaded, "__version__", "")) or None
    try:
        return version(package)
    except PackageNotFoundError:
        return None
