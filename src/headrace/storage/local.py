"""A local directory -> bytes by name; every write is a temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from headrace.platform import read_ahead_more, read_at, read_at_into
from headrace.storage.files import (
    disk_errors,
    fsync_directory,
    make_directory,
    staged_file,
    write_file,
)
from headrace.storage.protocol import Data, ObjectInfo, check_path
from headrace.types import Bytes


class LocalBlob:
    """A directory; see `Blob`. Its path is made absolute, so that a later chdir changes nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._durable: set[Path] = set()
        """Directories whose own name this object has made durable."""

    @property
    def url(self) -> str:
        """The directory's absolute path."""
        return str(self.root)

    def path(self, path: str) -> Path:
        """The file of a name."""
        return self.root / check_path(path)

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        target = self.path(path)
        with disk_errors(target, missing=True):
            return target.stat().st_size

    def info(self, path: str) -> ObjectInfo:
        """See `Blob.info`."""
        target = self.path(path)
        with disk_errors(target, missing=True):
            status = target.stat()
        return ObjectInfo(nbytes=status.st_size, version=f"{status.st_mtime_ns} {status.st_ino}")

    def get(self, path: str) -> Bytes:
        """See `Blob.get`."""
        target = self.path(path)
        with disk_errors(target, missing=True):
            return target.read_bytes()

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """See `Blob.get_range`."""
        target = self.path(path)
        with disk_errors(target, missing=True):
            handle = os.open(target, os.O_RDONLY)
            try:
                # A damaged file's sizes are not trusted: no more is requested than there is.
                stop = min(stop, os.fstat(handle).st_size)
                parts = []
                while start < stop:
                    part = read_at(handle, stop - start, start)
                    if not part:
                        break
                    parts.append(part)
                    start += len(part)
                return parts[0] if len(parts) == 1 else b"".join(parts)
            finally:
                os.close(handle)

    def read_into(self, path: str, start: int, buffers: Sequence[memoryview]) -> int:
        """Fill buffers with the bytes from `start` on, without a copy; returns how many there were."""
        target = self.path(path)
        with disk_errors(target, missing=True):
            handle = os.open(target, os.O_RDONLY)
            try:
                read_ahead_more(handle)
                return read_at_into(handle, buffers, start)
            finally:
                os.close(handle)

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        target = self.path(path)
        with disk_errors(target):
            self._make_directory(target.parent)
            write_file(target, data)

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`."""
        target = self.path(path)
        with disk_errors(target):
            if target.exists():
                return False
            self._make_directory(target.parent)
            with staged_file(target, data) as temporary:
                try:
                    os.link(temporary, target)  # fails if the name exists; never shows half a file
                except FileExistsError:
                    return False
                finally:
                    temporary.unlink()
            fsync_directory(target.parent)
        return True

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        top = self.path(prefix.rstrip("/")) if prefix else self.root
        with disk_errors(top):
            names = [path.relative_to(self.root).as_posix() for path in top.rglob("*") if path.is_file()]
        return sorted(name for name in names if not PurePosixPath(name).name.startswith("."))

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        target = self.path(path)
        with disk_errors(target):
            target.unlink(missing_ok=True)

    def _make_directory(self, directory: Path) -> None:
        """Create the root or a directory below it; durable also where a process that created it was killed."""
        if directory in self._durable:
            return
        make_directory(directory)
        while directory not in self._durable:
            fsync_directory(directory.parent)
            self._durable.add(directory)
            if directory == self.root:
                return
            directory = directory.parent
