"""A URL -> bytes by name: one small seam over a local directory, memory, and object stores.

    LocalBlob      a directory; every write is tmp, fsync, rename, fsync of the directory
    MemoryBlob     memory://NAME, alive as long as the process
    RemoteBlob     s3://, gs://, az://, http(s)://, by obstore: see remote.py

Names are relative, with '/' between parts. A missing name is FileNotFoundError; a remote that cannot be reached
now is Unavailable, and worth another try.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from headrace.errors import ConfigError, SpaceError
from headrace.types import Bytes

T = TypeVar("T")
Data: TypeAlias = Bytes | Sequence[Bytes]
"""What is written: bytes, or several pieces to be written one after the other."""

REMOTE_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https")


class Unavailable(ConnectionError):
    """A remote did not answer as it should; trying again later may help."""

    def __init__(self, message: str, *, throttled: bool = False) -> None:
        super().__init__(message)
        self.throttled = throttled
        """The remote asked for fewer requests (429, 503)."""


class Blob(Protocol):
    """Bytes by name under one URL."""

    @property
    def url(self) -> str:
        """What it was opened with."""

    def size(self, path: str) -> int:
        """Length in bytes. Raises: FileNotFoundError, Unavailable."""

    def get(self, path: str) -> Bytes:
        """All bytes. Raises: FileNotFoundError, Unavailable."""

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """Bytes [start, stop); fewer where the object ends before. Raises: FileNotFoundError, Unavailable."""

    def put(self, path: str, data: Data) -> None:
        """Write all of it or nothing, replacing what is there; durable on return. Raises: SpaceError."""

    def put_if_absent(self, path: str, data: Data) -> bool:
        """Write it unless the name exists; whether it was written. Of two at once, one wins."""

    def list(self, prefix: str = "") -> list[str]:
        """Names below a prefix that ends in '/' (or all), sorted."""

    def delete(self, path: str) -> None:
        """Remove it; no error if it is not there."""


def open_blob(url: str | os.PathLike[str]) -> Blob:
    """The blob behind a URL or a local path.

    >>> blob = open_blob("memory://doc")
    >>> blob.put("a/b", b"text"), blob.put_if_absent("a/b", b"other"), bytes(blob.get("a/b"))
    (None, False, b'text')

    Raises:
        ConfigError: a scheme that is not known.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalBlob(Path(text))
    if scheme == "file":
        return LocalBlob(Path(unquote(urlsplit(text).path)))
    if scheme == "memory":
        return MemoryBlob(rest.strip("/"))
    if scheme in REMOTE_SCHEMES:
        # obstore is loaded when the first remote is opened.
        from headrace.storage.remote import RemoteBlob, Retry, RetryingBlob

        return RetryingBlob(RemoteBlob(text), Retry())
    raise ConfigError(
        f"{text}: scheme {scheme!r} is not known; wanted a path, file, memory, or one of {', '.join(REMOTE_SCHEMES)}"
    )


def is_local(blob: Blob) -> bool:
    """Whether its files can be mapped."""
    return isinstance(blob, LocalBlob)


def read_right(blob: Blob, read: Callable[[], T], wrong: type[Exception]) -> T:
    """Read something that checks itself; from a remote up to three times, as it may have been damaged on its way."""
    for _ in range(0 if is_local(blob) else 2):
        try:
            return read()
        except wrong:
            continue
    return read()


def pieces(data: Data) -> Sequence[Bytes]:
    """The pieces of what is written."""
    return [data] if isinstance(data, bytes | bytearray | memoryview) else data


def check_path(path: str) -> str:
    """The path, if it stays below its root.

    Raises:
        ConfigError: absolute, empty, or with '..'.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ConfigError(f"blob name {path!r}: wanted a relative name without '..'")
    return path


@contextmanager
def space_errors(what: str, remains: str = "Nothing that was complete before has changed.") -> Iterator[None]:
    """Disk full -> SpaceError that says what remains."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(
                f"{what}: no space left on the device ({error.strerror}). {remains} "
                "Free some space and run the same command again."
            ) from error
        raise


def fsync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open_alone(path: Path) -> BinaryIO:
    """An empty file that this process alone writes until it closes it; waits for another that does."""
    while True:
        file = path.open("ab")
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        try:
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                return file
        except FileNotFoundError:
            pass
        file.close()  # renamed into place by the one for whom we waited


class LocalBlob:
    """A directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The directory's path."""
        return str(self.root)

    def path(self, path: str) -> Path:
        """The file behind a name."""
        return self.root / check_path(path)

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        return self.path(path).stat().st_size

    def get(self, path: str) -> Bytes:
        """See `Blob.get`."""
        return self.path(path).read_bytes()

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """See `Blob.get_range`."""
        handle = os.open(self.path(path), os.O_RDONLY)
        try:
            # A damaged file's sizes are not trusted: no more is asked for than there is.
            stop = min(stop, os.fstat(handle).st_size)
            parts = []
            while start < stop:
                part = os.pread(handle, stop - start, start)
                if not part:
                    break
                parts.append(part)
                start += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(handle)

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        target = self.path(path)
        with self._written(target, data) as temporary:
            temporary.replace(target)
        fsync_directory(target.parent)

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`."""
        target = self.path(path)
        if target.exists():
            return False
        with self._written(target, data) as temporary:
            try:
                target.hardlink_to(temporary)  # fails if the name exists, and never shows half a file
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        fsync_directory(target.parent)
        return True

    @contextmanager
    def _written(self, target: Path, data: Data) -> Iterator[Path]:
        """All of the data, durable, under a name that is nobody else's meanwhile."""
        # One name for each target: what a killed process leaves, the next one overwrites.
        temporary = target.with_name(f".{target.name}.tmp")
        with space_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = _open_alone(temporary)
            try:
                with file:
                    for piece in pieces(data):
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                    yield temporary
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        top = self.path(prefix) if prefix else self.root
        found = [path.relative_to(self.root).as_posix() for path in top.rglob("*") if path.is_file()]
        return sorted(name for name in found if not PurePosixPath(name).name.startswith("."))

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        self.path(path).unlink(missing_ok=True)


_memory: dict[str, dict[str, bytes]] = {}
_memory_lock = threading.Lock()


class MemoryBlob:
    """Bytes in this process, shared by all who open the same name."""

    def __init__(self, name: str) -> None:
        self._name = name
        with _memory_lock:
            self._files = _memory.setdefault(name, {})

    @property
    def url(self) -> str:
        """memory://NAME."""
        return f"memory://{self._name}"

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        return len(self.get(path))

    def get(self, path: str) -> bytes:
        """See `Blob.get`."""
        try:
            return self._files[check_path(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{self.url}/{path}") from None

    def get_range(self, path: str, start: int, stop: int) -> bytes:
        """See `Blob.get_range`."""
        return self.get(path)[start:stop]

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        self._files[check_path(path)] = b"".join(pieces(data))

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`."""
        with _memory_lock:
            if check_path(path) in self._files:
                return False
            self.put(path, data)
            return True

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        return sorted(name for name in list(self._files) if name.startswith(prefix))

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        self._files.pop(check_path(path), None)
