"""Whole files of a remote -> a local directory that the processes of a machine share; known to be good, or gone.

    <directory>/<key>/...             the files
    <directory>/<key>/complete.json   size and XXH3-128 of each, written last
    <directory>/<key>.lock            locked (flock) by the process that fetches the files
    <directory>/<key>.use             locked (flock), shared, by those that use them, or by one that removes them

Locks are the kernel's: they end with their process, however that died. A process that finds another one fetching waits
for it. What a killed process left is continued by the next one that needs the same files: a file gets its name when
it is whole. Every use compares all bytes with complete.json; a damaged file is fetched again.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import xxhash

from headrace.errors import ConfigError, StorageError
from headrace.platform import lock_file
from headrace.storage.bulk_read import REQUEST_BYTES, BulkReader, Progress, RangeRead
from headrace.storage.files import disk_errors, fsync_directory, make_directory, open_lock, write_file
from headrace.storage.protocol import Blob, check_path

logger = logging.getLogger("headrace.cache")

COMPLETE: Final = "complete.json"
_PART: Final = ".part"
_HASH_THREADS: Final = 4
_CURE: Final = "Give another directory with HEADRACE_CACHE_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file to be fetched."""

    name: str
    nbytes: int
    xxh3_128: str | None = None
    """What its bytes must give, where that is known."""


class FileCache:
    """Directories of files, at most `max_bytes` in all; the least recently used one is removed first.

    Args:
        directory: local; shared by the processes of one machine.
        max_bytes: bound of all files together.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int) -> None:
        self._directory = Path(directory).absolute()
        self._max_bytes = max_bytes
        self._held: list[int] = []
        """Shared locks of the directories in use, held until the process ends."""

    def fetch(
        self, key: str, blob: Blob, files: Sequence[RemoteFile], *, progress: Progress | None = None
    ) -> Path:
        """The directory that holds the files, every byte compared with what was fetched; they stay until exit.

        Args:
            key: names the files and their versions; a file name.
            blob: has them.
            files: what is needed.
            progress: called as progress(bytes done, bytes in all, note).

        Raises:
            ConfigError: the files do not fit into the bound.
            StorageError: the cache's disk, or an object that ends too soon.
            SpaceError: no space left for the cache.
            DamagedFileError: a file does not have its hash, also when it was fetched again.
            FileNotFoundError: a file is missing.
        """
        total = sum(file.nbytes for file in files)
        if total > self._max_bytes:
            raise ConfigError(
                f"{blob.url}: its files have {total:,} bytes, the cache {self._directory} may hold "
                f"{self._max_bytes:,}. "
                "Raise HEADRACE_CACHE_DIR_BYTES, or copy the model to a local directory."
            )
        entry = self._directory / check_path(key)
        with disk_errors(self._directory, kept=_CURE + "."):
            make_directory(self._directory)
            in_use = _locked(entry, ".use", shared=True)
        with disk_errors(self._directory, kept=_CURE + ".", missing=True):
            try:
                if not self._is_good(entry, files):
                    filling = _locked(entry, ".lock")
                    try:
                        if not self._is_good(entry, files):  # another process has not fetched them meanwhile
                            self._evict(entry, total)
                            self._fill(entry, blob, files, total, progress)
                    finally:
                        os.close(filling)
                with suppress(PermissionError):  # of another user
                    os.utime(entry / COMPLETE)
            except BaseException:
                os.close(in_use)
                raise
        self._held.append(in_use)
        return entry

    def release(self) -> None:
        """Let other processes remove the directories that this one has used."""
        while self._held:
            os.close(self._held.pop())

    def _is_good(self, entry: Path, files: Sequence[RemoteFile]) -> bool:
        """Whether all files are there with the bytes that they were fetched with; removes those that are not."""
        try:
            known: dict[str, Any] = orjson.loads((entry / COMPLETE).read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        bad = _damaged(entry, {file.name: known.get(file.name) for file in files})
        for name in bad:
            logger.warning("%s: damaged or missing; it is fetched again", entry / name)
        return not bad

    def _fill(
        self, entry: Path, blob: Blob, files: Sequence[RemoteFile], total: int, progress: Progress | None
    ) -> None:
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = dict(orjson.loads((entry / COMPLETE).read_bytes())["files"])
        bad = set(_damaged(entry, known))
        missing = []
        for file in files:
            path = entry / check_path(file.name)
            expected = known.get(file.name, {}).get("xxh3_128", file.xxh3_128)
            whole = path.is_file() and path.stat().st_size == file.nbytes and file.name not in bad
            # Without a hash, a file that a killed process left is known by its name only: it got it when it was whole.
            if not whole or (expected is not None and hash_file(path) != expected):
                missing.append(file)
        (entry / COMPLETE).unlink(missing_ok=True)
        began, before = time.perf_counter(), total - sum(file.nbytes for file in missing)
        reader = BulkReader(blob)
        done = before
        for file in missing:
            path = entry / file.name
            make_directory(path.parent)
            done = self._fetch(file, path, reader, blob, done, total, began, before, progress)
            fsync_directory(path.parent)
        content = {
            file.name: {"bytes": file.nbytes, "xxh3_128": digest}
            for file, digest in zip(files, _hash_all([entry / file.name for file in files]), strict=True)
        }
        write_file(
            entry / COMPLETE, orjson.dumps({"url": blob.url, "files": content}, option=orjson.OPT_INDENT_2)
        )

    def _fetch(
        self, file: RemoteFile, path: Path, reader: BulkReader, blob: Blob, done: int, total: int, began: float,
        before: int, progress: Progress | None,
    ) -> int:  # fmt: skip
        part = path.with_name(path.name + _PART)
        for attempt in (1, 2, 3):
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
            try:
                os.ftruncate(handle, file.nbytes)
                reads = [_read_of(file, start, handle) for start in range(0, file.nbytes, REQUEST_BYTES)]
                now = done
                for number in reader.read(reads):
                    now += reads[number].stop - reads[number].start
                    if progress is not None:
                        progress(now, total, reader.note(now - before, time.perf_counter() - began))
                os.fsync(handle)
            finally:
                os.close(handle)
            got = hash_file(part) if file.xxh3_128 is not None else None
            if got == file.xxh3_128:
                part.replace(path)
                return now
            message = f"{blob.url}/{file.name}: XXH3-128 {got}, expected {file.xxh3_128}"
            logger.warning("%s (attempt %d of 3)", message, attempt)
        part.unlink(missing_ok=True)
        raise DamagedFileError(f"{message}. Damaged there? Copy it there again.")

    def _evict(self, entry: Path, nbytes: int) -> None:
        """Remove directories that nobody uses, the least recently used first, until `nbytes` fit.

        A directory without a lock file beside it was not made by a cache: it is the user's and stays.
        """
        others = []
        for path in self._directory.iterdir():
            made_here = path.with_name(f"{path.name}.use").is_file() and not path.is_symlink()
            if path.is_dir() and made_here and path != entry:
                with suppress(OSError):
                    used = (path / COMPLETE).stat().st_mtime_ns if (path / COMPLETE).exists() else 0
                    others.append((used, path, sum(f.stat().st_size for f in path.rglob("*") if f.is_file())))
        total = nbytes + sum(size for _, _, size in others)
        for _, path, size in sorted(others):
            if total <= self._max_bytes:
                return
            handle = _open_lock(path, ".use")
            try:
                if lock_file(handle, wait=False):
                    with suppress(PermissionError):  # of another user
                        (path / COMPLETE).unlink(missing_ok=True)
                        shutil.rmtree(path)
                        total -= size
            finally:
                os.close(handle)


class DamagedFileError(StorageError):
    """A remote file does not have the hash that it should have."""


def _open_lock(entry: Path, suffix: str) -> int:
    return open_lock(entry.with_name(entry.name + suffix))


def _locked(entry: Path, suffix: str, *, shared: bool = False) -> int:
    """A locked file beside an entry; closing it gives the lock back."""
    handle = _open_lock(entry, suffix)
    try:
        lock_file(handle, wait=True, shared=shared)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _read_of(file: RemoteFile, start: int, handle: int) -> RangeRead:
    def write(data: memoryview) -> None:
        at = start
        while data:
            written = os.pwrite(handle, data, at)
            data, at = data[written:], at + written

    stop = min(start + REQUEST_BYTES, file.nbytes)
    return RangeRead(name=file.name, start=start, stop=stop, use=write, read_only=True)


def hash_file(path: Path) -> str:
    """XXH3-128 of a file's bytes, 32 hex digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while got := file.readinto(buffer):
            digest.update(memoryview(buffer)[:got])
    return digest.hexdigest()


def _hash_all(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return list(pool.map(hash_file, paths))


def _damaged(entry: Path, known: Mapping[str, Any]) -> list[str]:
    """Names of files that are missing, unknown (None), or have another size or hash."""
    bad, paths, expected = [], [], []
    for name, one in known.items():
        path = entry / name
        try:
            same_size = one is not None and path.stat().st_size == one["bytes"]
        except OSError:
            same_size = False
        if same_size:
            paths.append(path)
            expected.append(one["xxh3_128"])
        else:
            bad.append(name)
    digests = _hash_all(paths)
    bad += [
        str(p.relative_to(entry))
        for p, got, want in zip(paths, digests, expected, strict=True)
        if got != want
    ]
    return bad
