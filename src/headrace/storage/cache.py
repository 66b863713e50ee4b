"""Stored blocks of a remote store -> files of a local directory that all processes of the machine share.

    <directory>/<2 hex>/<key>         a block's stored bytes, renamed into place; the key begins with these digits
    <directory>/<2 hex>/<key>.claim   locked (flock) by the process that fetches the block
    <directory>/evict.lock            locked (flock) by the process that removes blocks

A claim is a lock of the kernel, not a file's existence: it ends with the process that held it, however that
died, and the next process removes the file.

A cache that fails while it is used (a full device, no inodes, an I/O error) is bypassed: blocks are fetched as if
there were none. A directory that cannot be used at all is refused when it is opened. Files with other names, which
may be the user's, are never touched.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from headrace.errors import ConfigError
from headrace.platform import lock_file
from headrace.storage.files import FULL_DEVICE, is_file_at, open_lock
from headrace.types import Bytes

_LOW_WATER: Final = 0.9
"""Eviction goes on to this part of the bound, so that it is not needed for each block."""
_SUFFIXES: Final = (".claim", ".tmp")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")


class NodeCache:
    """Blocks on a local disk, at most `max_bytes` of them, each fetched by one process of the machine."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int,
        next_uses: Callable[[], Mapping[str, int]],
        key_format: str,
        option: str = "cache_dir",
    ) -> None:
        """Create the directory and remove what dead processes left.

        Args:
            directory: local; shared by the processes of one machine.
            max_bytes: bound on the blocks' bytes; exceeded by at most a 32nd of it for each process.
            next_uses: key -> rank of its next use, for the keys whose use is announced.
            key_format: regular expression that every key matches as a whole; a file with another name is not this
                cache's, and is neither counted nor removed.
            option: names the directory in error messages.

        Raises:
            ConfigError: the directory cannot be created or written.
        """
        self._directory = Path(directory).absolute()
        self._max_bytes = max_bytes
        self._next_uses = next_uses
        self._file_name = re.compile(rf"(?:{key_format})(?:\.claim|\.tmp)?")
        self._claims: dict[str, int | None] = {}
        self._lock = threading.Lock()
        self._unscanned = 0
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_debris()
            self._evict()
        except OSError as error:
            if error.errno not in FULL_DEVICE:
                raise ConfigError(
                    f"{option} {self._directory}: cannot be used: {error.strerror or error}. Name a local directory "
                    f"that can be written, or leave {option} out"
                ) from error

    def get(self, key: str) -> bytes | None:
        """A block's stored bytes, not yet checked; None if they are not here."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        self.touch(key)
        return data

    def has(self, key: str) -> bool:
        """Whether a block is here."""
        return self._path(key).exists()

    def touch(self, key: str) -> None:
        """Mark a block as used, for the process that evicts without knowing the order."""
        with suppress(OSError):
            os.utime(self._path(key))

    def path_of(self, key: str) -> Path:
        """A block's file, for messages."""
        return self._path(key)

    def claim(self, key: str) -> bool:
        """Try to become the process that fetches a block; False if another one is. End it with `release`."""
        path = self._path(key, ".claim")
        try:
            while True:
                path.parent.mkdir(exist_ok=True)
                handle = open_lock(path)
                try:
                    taken = lock_file(handle, wait=False)
                except OSError:
                    os.close(handle)
                    raise
                if taken and is_file_at(handle, path):
                    return self._claimed(key, handle)
                os.close(handle)  # where it was taken: its holder removed it between our open and our lock
                if not taken:
                    return False
        except OSError:
            return self._claimed(key, None)  # no claim can be made here: each process fetches for itself

    def _claimed(self, key: str, handle: int | None) -> bool:
        with self._lock:
            self._claims[key] = handle
        return True

    def release(self, key: str) -> None:
        """End a claim."""
        with self._lock:
            handle = self._claims.pop(key)
        if handle is not None:
            with suppress(OSError):
                self._path(key, ".claim").unlink(missing_ok=True)
            os.close(handle)

    def wait(self, key: str) -> None:
        """Wait while another process holds the claim."""
        try:
            handle = open_lock(self._path(key, ".claim"), create=False)
        except OSError:
            return
        try:
            with suppress(
                OSError
            ):  # no locks here, as on some network file systems: fetched without the cache
                lock_file(handle, wait=True)
        finally:
            os.close(handle)

    def put(self, key: str, stored: Bytes) -> bool:
        """Keep a claimed block's bytes; False where they cannot be written and are not kept, which is no error."""
        with self._lock:
            if self._claims.get(key) is None:
                return False  # no claim could be made, and another process may write the same file
        path, temporary = self._path(key), self._path(key, ".tmp")
        try:
            temporary.write_bytes(stored)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        with self._lock:
            self._unscanned += len(stored)
            due = self._unscanned > self._max_bytes // 32
            if due:
                self._unscanned = 0
        if due:
            with suppress(OSError):
                self._evict()
        return True

    def drop(self, key: str) -> None:
        """Remove a block whose bytes are damaged."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str, suffix: str = "") -> Path:
        return self._directory / key[:2] / (key + suffix)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._directory) as tops:
            for top in tops:
                if _FOLDER.fullmatch(top.name) and top.is_dir(follow_symlinks=False):
                    with os.scandir(top.path) as entries:
                        yield from (
                            e
                            for e in entries
                            if self._file_name.fullmatch(e.name) and e.name.startswith(top.name)
                        )

    def _evict(self) -> None:
        """Remove blocks down to the low-water mark, if there are more than the bound."""
        with self._exclusive():
            blocks = []
            for entry in self._files():
                if not entry.name.endswith(_SUFFIXES):
                    with suppress(FileNotFoundError):
                        stat = entry.stat()
                        blocks.append((entry.name, entry.path, stat.st_size, stat.st_mtime_ns))
            total = sum(size for _, _, size, _ in blocks)
            if total <= self._max_bytes:
                return
            uses = self._next_uses()
            # First those without announced use, the oldest first; then those whose next use is furthest.
            blocks.sort(key=lambda b: (b[0] in uses, -uses[b[0]] if b[0] in uses else b[3]))
            for _, path, size, _ in blocks:
                if total <= _LOW_WATER * self._max_bytes:
                    break
                with suppress(PermissionError):  # of another user
                    Path(path).unlink(missing_ok=True)
                    total -= size

    def _remove_debris(self) -> None:
        """Remove claims and half-written files of processes that died."""
        with self._exclusive():
            for entry in self._files():
                if entry.name.endswith(_SUFFIXES):
                    key = entry.name.rsplit(".", 1)[0]
                    if self.claim(key):
                        with suppress(OSError):
                            self._path(key, ".tmp").unlink(missing_ok=True)
                        self.release(key)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        handle = open_lock(self._directory / "evict.lock")
        try:
            lock_file(handle, wait=True)
            yield
        finally:
            os.close(handle)
