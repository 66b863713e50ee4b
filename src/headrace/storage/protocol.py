"""The interface of every place that holds bytes by name: a directory, memory, an object store, an HTTP server.

Names are relative, with '/' between parts. A missing name is FileNotFoundError; a remote that cannot be reached
now is Unavailable, and worth another try.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from headrace.errors import ConfigError
from headrace.types import Bytes

Data: TypeAlias = Bytes | Sequence[Bytes]
"""Bytes to write: one buffer, or several that are written one after the other."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Unavailable(ConnectionError):
    """A remote did not answer as it should; the same request may succeed later."""

    def __init__(
        self, message: str, *, throttled: bool = False, timed_out: bool = False, unreachable: bool = False
    ) -> None:
        super().__init__(message)
        self.unreachable = unreachable
        """No connection could be made, and none has been made by this process before: most likely a wrong URL."""
        self.throttled = throttled
        """The remote asked for fewer requests (429, 503)."""
        self.timed_out = timed_out
        """The remote did not answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a place says about an object without its bytes."""

    nbytes: int
    version: str
    """Changes when the bytes do: an ETag, or the time of the last write."""


class Blob(Protocol):
    """Bytes by name under one URL."""

    @property
    def url(self) -> str:
        """The URL or absolute path under which the names are."""

    def size(self, path: str) -> int:
        """Length in bytes. Raises: FileNotFoundError, Unavailable, StorageError."""

    def info(self, path: str) -> ObjectInfo:
        """Length and version. Raises: as `size`."""

    def get(self, path: str) -> Bytes:
        """All bytes. Raises: FileNotFoundError, Unavailable, StorageError."""

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """Bytes [start, stop); fewer where the object ends before. Raises: as `get`."""

    def put(self, path: str, data: Data) -> None:
        """Write all bytes or none, replacing what is there; durable on return. Raises: StorageError, SpaceError."""

    def put_if_absent(self, path: str, data: Data) -> bool:
        """Write the bytes unless the name exists. Returns whether they were written; of two writers one wins."""

    def list(self, prefix: str = "") -> list[str]:
        """Names below a prefix that ends in '/' (all names without one), sorted."""

    def delete(self, path: str) -> None:
        """Remove a name; no error if it does not exist."""


def as_buffers(data: Data) -> Sequence[Bytes]:
    """The data as a sequence of buffers."""
    return [data] if isinstance(data, bytes | bytearray | memoryview) else data


def check_path(path: str) -> str:
    """Return the name, if every place can hold it: below its root, and under this name only.

    Raises:
        ConfigError: it is absolute or empty, or has an empty part, '.', '..' or a control character.
    """
    if _CONTROL.search(path) or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ConfigError(
            f"blob name {path!r}: expected a relative name without '..', '.', '//', a last '/' and control characters"
        )
    return path
