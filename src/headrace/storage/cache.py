"""Stored blocks of a remote store -> files of a local directory that all processes of the machine share.

    <directory>/<2 hex>/<key>         a block's stored bytes, renamed into place
    <directory>/<2 hex>/<key>.claim   its flock is held by the process that fetches it
    <directory>/evict.lock            its flock is held by the process that makes room

A claim is a lock of the kernel, not a file's existence: it ends with the process that held it, however that
died, and the next process removes the file.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from headrace.types import Bytes

_LOW_WATER: Final = 0.9
"""Making room goes on to this part of the bound, so that it is not needed for each block."""
_SUFFIXES: Final = (".claim", ".tmp")


class NodeCache:
    """Blocks on a local disk, at most `max_bytes` of them, each fetched by one process."""

    def __init__(
        self, directory: str | os.PathLike[str], *, max_bytes: int, upcoming: Callable[[], Mapping[str, int]]
    ) -> None:
        """Create the directory and clear what dead processes left.

        Args:
            directory: local; shared by the processes of one machine.
            max_bytes: bound on the blocks' bytes; exceeded by at most a 32nd of it for each process.
            upcoming: key -> rank of its next use, for the keys whose use is announced.
        """
        self._directory = Path(directory)
        self._max_bytes = max_bytes
        self._upcoming = upcoming
        self._claims: dict[str, int] = {}
        self._lock = threading.Lock()
        self._unscanned = 0
        self._directory.mkdir(parents=True, exist_ok=True)
        self._clear_debris()
        self._make_room()

    def get(self, key: str) -> bytes | None:
        """A block's stored bytes, not yet checked; None if it is not here."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)  # for whoever evicts without knowing the order: this one was used
        except FileNotFoundError:
            return None
        return data

    def claim(self, key: str) -> bool:
        """Take it upon this process to fetch a block; False if another has. `release` it."""
        path = self._path(key, ".claim")
        while True:
            path.parent.mkdir(exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            if _is_file_of(handle, path):
                with self._lock:
                    self._claims[key] = handle
                return True
            os.close(handle)  # its holder removed it between our open and our lock

    def release(self, key: str) -> None:
        """End a claim."""
        with self._lock:
            handle = self._claims.pop(key)
        self._path(key, ".claim").unlink(missing_ok=True)
        os.close(handle)

    def wait(self, key: str) -> None:
        """Wait while another process holds the claim."""
        try:
            handle = os.open(self._path(key, ".claim"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        finally:
            os.close(handle)

    def put(self, key: str, stored: Bytes) -> None:
        """Keep a claimed block's bytes; without room on the device it is not kept, which is no error."""
        path, temporary = self._path(key), self._path(key, ".tmp")
        try:
            temporary.write_bytes(stored)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        with self._lock:
            self._unscanned += len(stored)
            due = self._unscanned > self._max_bytes // 32
            if due:
                self._unscanned = 0
        if due:
            self._make_room()

    def drop(self, key: str) -> None:
        """Remove a block whose bytes turned out damaged."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str, suffix: str = "") -> Path:
        return self._directory / key[:2] / (key + suffix)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._directory) as tops:
            for top in tops:
                if top.is_dir():
                    with os.scandir(top.path) as found:
                        yield from found

    def _make_room(self) -> None:
        with self._alone():
            blocks = []
            for entry in self._files():
                if not entry.name.endswith(_SUFFIXES):
                    with suppress(FileNotFoundError):
                        stat = entry.stat()
                        blocks.append((entry.name, entry.path, stat.st_size, stat.st_mtime_ns))
            total = sum(size for _, _, size, _ in blocks)
            if total <= self._max_bytes:
                return
            upcoming = self._upcoming()
            # First those without announced use, the oldest first; then those whose next use is furthest.
            blocks.sort(key=lambda b: (b[0] in upcoming, -upcoming[b[0]] if b[0] in upcoming else b[3]))
            for _, path, size, _ in blocks:
                if total <= _LOW_WATER * self._max_bytes:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size

    def _clear_debris(self) -> None:
        """Claims and half-written files of processes that died."""
        with self._alone():
            for entry in self._files():
                if entry.name.endswith(_SUFFIXES):
                    key = entry.name.rsplit(".", 1)[0]
                    if self.claim(key):
                        self._path(key, ".tmp").unlink(missing_ok=True)
                        self.release(key)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        handle = os.open(self._directory / "evict.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _is_file_of(handle: int, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
