"""JSON values and arrays -> files that carry or have a hash, so that damage is an error with a cure."""

from __future__ import annotations

from typing import Any

import orjson
import xxhash

from headrace.errors import ResumeError
from headrace.storage import Blob
from headrace.types import Bytes

RESTART = "--restart (restart=True) starts over"


def hash_of(data: Bytes) -> str:
    """XXH3-128 of a file's bytes, as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def seal(value: Any) -> bytes:
    """A JSON value with the hash of its canonical form.

    >>> seal({"a": 1})
    b'{"xxh3_128":"3c8c141663acf5a1b6b7137162fa70fb","value":{"a":1}}'
    """
    return orjson.dumps({"xxh3_128": hash_of(orjson.dumps(value)), "value": value})


def read_sealed(blob: Blob, path: str) -> Any:
    """The value that `seal` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ResumeError: it is damaged.
    """
    data = bytes(blob.get(path))
    try:
        sealed = orjson.loads(data)
        value = sealed["value"]
        intact = sealed["xxh3_128"] == hash_of(orjson.dumps(value))
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise damaged(blob, path, f"not what was written ({type(error).__name__})") from None
    if not intact:
        raise damaged(blob, path, "its hash does not match its content")
    return value


def read_hashed(blob: Blob, path: str, expected: str) -> bytes:
    """A file's bytes, whose hash was recorded elsewhere.

    Raises:
        ResumeError: it is missing or damaged.
    """
    try:
        data = bytes(blob.get(path))
    except FileNotFoundError:
        raise damaged(blob, path, "missing") from None
    actual = hash_of(data)
    if actual != expected:
        raise damaged(blob, path, f"xxh3_128 is {actual}, expected {expected}")
    return data


def damaged(blob: Blob, path: str, reason: str) -> ResumeError:
    """The error for a journal that cannot be continued."""
    return ResumeError(f"{blob.url}/{path}: damaged: {reason}. The job cannot be continued: {RESTART}")
