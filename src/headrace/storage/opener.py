"""A URL or local path -> the blob that holds its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from headrace.errors import ConfigError
from headrace.paths import given_path
from headrace.storage.local import LocalBlob
from headrace.storage.memory import MemoryBlob
from headrace.storage.protocol import Blob
from headrace.storage.remote import RemoteBlob
from headrace.storage.retry import Retry, RetryingBlob

T = TypeVar("T")

REMOTE_SCHEMES: Final = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https")
REMOTE_READS: Final = 3
"""How often a remote is read before bytes that fail their own check are called damaged."""


def open_blob(url: str | os.PathLike[str], *, name: str = "url") -> Blob:
    """Open the blob of a URL or a local path.

    >>> blob = open_blob("memory://doc")
    >>> blob.put("a/b", b"text"), blob.put_if_absent("a/b", b"other"), bytes(blob.get("a/b"))
    (None, False, b'text')

    Args:
        url: see above; `~` is the home directory.
        name: of the option or argument, for the message.

    Raises:
        ConfigError: it is empty, or the scheme is not known.
    """
    text = given_path(url, name=name, expected="a path or a URL")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalBlob(Path(text))
    if scheme == "file":
        return LocalBlob(Path(unquote(urlsplit(text).path)))
    if scheme == "memory":
        return MemoryBlob(rest.strip("/"))
    if scheme in REMOTE_SCHEMES:
        return RetryingBlob(RemoteBlob(text), Retry())
    raise ConfigError(
        f"{text}: scheme {scheme!r} is not known; expected a path, file, memory, or one of {', '.join(REMOTE_SCHEMES)}"
    )


def absolute_url(url: str | os.PathLike[str], *, name: str = "url") -> str:
    """The URL as it is, or a local path made absolute: it means the same after a chdir."""
    text = given_path(url, name=name, expected="a path or a URL")
    return text if "://" in text else str(Path(text).absolute())


def read_verified(blob: Blob, read: Callable[[], T], damaged: type[Exception]) -> T:
    """Run a read that checks what it got; a remote is read up to three times, as the transfer may be at fault.

    Args:
        blob: what is read.
        read: reads and checks.
        damaged: raised by `read` where the check fails.
    """
    for _ in range(0 if isinstance(blob, LocalBlob) else REMOTE_READS - 1):
        try:
            return read()
        except damaged:
            continue
    return read()
