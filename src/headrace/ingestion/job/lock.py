"""A local directory -> the right to write into it, for one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace.errors import ConfigError
from headrace.platform import lock_file, read_at


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process dies, however it dies.

    Raises:
        ConfigError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _locked(path)
    try:
        yield
    finally:
        # Unlinked while locked: a process that has opened this file sees that it is gone, and creates another.
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a half-done job keeps its directory
            path.parent.rmdir()
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not lock_file(handle, wait=False):
            holder = read_at(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ConfigError(
                f"{path.parent.parent}: another ingest is writing to it (process {holder}). "
                f"Wait for it, or stop it; its work is kept"
            )
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)
