"""This machine -> the facts that a measured number needs beside it."""

from __future__ import annotations

import platform
import sys

from headrace.platform import available_cores, cpu_model, total_memory_nbytes


def describe_machine() -> dict[str, object]:
    """Processor, cores that this process may use, memory in bytes, system, Python and torch versions.

    The host's name is left out on purpose: reports are shared.
    """
    return {
        "processor": cpu_model() or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "memory_bytes": total_memory_nbytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": _version("torch"),
    }


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
