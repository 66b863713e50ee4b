"""Bytes -> a file that is either whole or absent after a power cut; a full disk -> SpaceError.

All writes of the sink pass through `write_all`, so a test can fill the disk at any byte.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.errors import SpaceError

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; os.write may take fewer than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def space_errors(path: Path, *, kept: str) -> Iterator[None]:
    """A full device becomes a SpaceError that says what was kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SpaceError(
            f"{path}: no space left on the device ({error.strerror}). {kept} "
            f"Free some room and run the same command again; it goes on where it stopped."
        ) from error


def replace(path: Path, data: bytes | memoryview, *, step: Callable[[str], None] = lambda _: None) -> None:
    """Write a file as tmp -> fsync -> rename -> fsync(dir): readers see the old or the new, never a half."""
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_all(fd, data)
            step("part written")
            os.fsync(fd)
        finally:
            os.close(fd)
        step("part synced")
        tmp.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make renames and removals in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
