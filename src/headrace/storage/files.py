"""Bytes -> local files that are whole or absent after a power cut; the system's OSError -> our errors.

A file is written as: temporary file, fsync, rename, fsync of the directory. A new directory is followed by an fsync
of its parent. Every OSError of a write passes through `disk_errors`, which names the path and the cure.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from headrace.errors import SpaceError, StorageError
from headrace.platform import lock_file, open_directory
from headrace.storage.protocol import Data, as_buffers

FULL_DEVICE: Final = (errno.ENOSPC, errno.EDQUOT)
UNCHANGED: Final = "Nothing that was complete before has changed."
_CURES: Final = {
    errno.EIO: "The device reports an I/O error: check it (dmesg, smartctl), or use another device",
    errno.EROFS: "The file system is read-only: remount it, or use another directory",
    errno.EACCES: "Check the permissions of the file and its directory, or use another directory",
    errno.EPERM: "Check the permissions of the file and its directory, or use another directory",
    errno.ENOTDIR: "A part of the path is a file: use another path, or move the file away",
    errno.EEXIST: "A part of the path is a file: use another path, or move the file away",
    errno.EISDIR: "It is a directory: use another path, or move the directory away",
    errno.ENAMETOOLONG: "The name is too long for this file system: use a shorter path",
    errno.EMFILE: "The process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "The machine has too many open files",
    errno.EFBIG: "The file is larger than the limit on file sizes: raise it (ulimit -f)",
    errno.ENOENT: "The directory is missing: was it removed meanwhile?",
}
Step = Callable[[str], None]
"""Called with the name of each step of a write; tests stop a write there."""


def storage_error(error: OSError, path: str | os.PathLike[str], *, kept: str = UNCHANGED) -> StorageError:
    """Our error for an OSError: the path, the reason, what is kept, and the cure."""
    reason = error.strerror or str(error)
    if error.errno in FULL_DEVICE:
        return SpaceError(
            f"{os.fspath(path)}: no space left on the device ({reason}). {kept} "
            "Free some space and run the same command again."
        )
    cure = _CURES.get(error.errno or 0, "Check the path and the device")
    return StorageError(f"{os.fspath(path)}: {reason}. {cure}. {kept}")


@contextmanager
def disk_errors(
    path: str | os.PathLike[str], *, kept: str = UNCHANGED, missing: bool = False
) -> Iterator[None]:
    """Raise our error in place of an OSError of the block.

    Args:
        path: names the file in the message.
        kept: a sentence that says what the failure left unchanged.
        missing: FileNotFoundError passes through, as the caller handles a missing file.

    Raises:
        SpaceError: the device is full.
        StorageError: any other OSError.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if not missing:
            raise storage_error(error, path, kept=kept) from error
        raise FileNotFoundError(errno.ENOENT, "no such file", os.fspath(path)) from error
    except OSError as error:
        raise storage_error(error, path, kept=kept) from error


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write every byte; os.write may take fewer than it was given."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(handle, view) :]


def fsync_file(path: Path) -> None:
    """Make the content of a file durable that a library has written."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Make renames, new names and removals in a directory durable."""
    handle = open_directory(path)
    if handle is None:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents; each new name is durable on return.

    Raises:
        NotADirectoryError: a part of the path is a file.
        OSError: the system refuses.
    """
    missing = []
    at = path
    while not at.is_dir():
        missing.append(at)
        at = at.parent
    for directory in reversed(missing):
        try:
            os.mkdir(directory)  # noqa: PTH102  # by os, as all calls that the power-cut test records
        except FileExistsError:
            if not directory.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(directory)) from None
        fsync_directory(directory.parent)


@contextmanager
def staged_file(target: Path, data: Data, *, step: Step = lambda _: None) -> Iterator[Path]:
    """Write data to a temporary file beside its target; the block then renames or links it.

    The temporary name is one for each target, so that the next writer overwrites what a killed one left; an
    exclusive lock keeps two writers apart. After an OSError of the write or the block the file is removed.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    handle = _open_exclusive(temporary)
    try:
        try:
            for buffer in as_buffers(data):
                write_all(handle, memoryview(buffer))
            step("part written")
            os.fsync(handle)
            step("part synced")
            yield temporary
        finally:
            os.close(handle)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_file(target: Path, data: Data, *, step: Step = lambda _: None) -> None:
    """Replace a file as a whole; durable on return. Readers see the old file or the new one.

    Raises:
        OSError: the system refuses; see `disk_errors`.
    """
    with staged_file(target, data, step=step) as temporary:
        os.replace(temporary, target)  # noqa: PTH105  # see make_directory
    fsync_directory(target.parent)


def _open_exclusive(path: Path) -> int:
    """Open an empty file that this process alone writes until it closes it; wait for another that does."""
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            lock_file(handle, wait=True)
            if is_file_at(handle, path):
                os.ftruncate(handle, 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the process that held the lock has renamed it into place


def open_lock(path: Path, *, create: bool = True) -> int:
    """An open lock file; that of another user may be locked as well, without being written.

    Args:
        path: of the file.
        create: make it where it is missing.

    Raises:
        OSError: the system refuses.
    """
    close_on_exec = getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(path, os.O_RDWR | (os.O_CREAT if create else 0) | close_on_exec, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | close_on_exec)


def is_file_at(handle: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
