"""A local directory -> the right to write into it, for one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace.errors import ConfigError
from headrace.platform import lock_file, read_at
from headrace.storage import make_directory


@contextmanager
def only_writer(path: Path, *, what: str = "another ingest is writing to it") -> Iterator[None]:
    """Hold a lock file; the system releases it when the process dies, however it dies.

    Args:
        path: of the lock file.
        what: what another process does that holds it.

    Raises:
        ConfigError: another process holds it.
    """
    make_directory(path.parent)  # durably: it is the first that a job makes in a new directory
    handle = _locked(path, what=what)
    try:
        yield
    finally:
        # Unlinked while locked: a process that has opened this file sees that it is gone, and creates another.
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a half-done job keeps its directory
            path.parent.rmdir()
        os.close(handle)


@contextmanager
def one_of_many(path: Path) -> Iterator[None]:
    """Hold a lock file together with others that hold it so, and with no `only_writer`.

    Raises:
        ConfigError: an `only_writer` holds it.
    """
    make_directory(path.parent)  # durably: it is the first that a job makes in a new directory
    handle = _locked(path, what="another ingest is writing to it", shared=True)
    try:
        yield
    finally:
        if lock_file(handle, wait=False):  # no others are left
            for left in path.parent.glob(f"{path.name}*"):
                left.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()
        os.close(handle)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold a lock file alone; wait until no other process does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock_file(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _locked(path: Path, *, what: str, shared: bool = False) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not lock_file(handle, wait=False, shared=shared):
            holder = read_at(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ConfigError(
                f"{path.parent.parent}: {what} (process {holder}). Wait for it, or stop it; its work is kept"
            )
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            if not shared:
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)
