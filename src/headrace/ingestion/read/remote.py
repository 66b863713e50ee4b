"""A URL of an object, a folder or a pattern -> the URLs of the objects that it stands for."""

from __future__ import annotations

from fnmatch import fnmatchcase

from headrace.errors import SourceError, StoreError
from headrace.storage import Unavailable, open_blob, split_url

_GLOB = "*?["


def expand_url(pattern: str) -> list[str]:
    """URLs of the objects that a URL, a pattern with * ? [ or a folder stands for, sorted.

    `*` matches any characters but '/', `**` any.
    """
    bucket, name = split_url(pattern)
    parts = name.split("/")
    fixed = next((i for i, part in enumerate(parts) if any(c in part for c in _GLOB)), None)
    if fixed is None:
        if name and not name.endswith("/") and _exists(bucket, name):
            return [pattern]
        if pattern.startswith("http") and not name.endswith("/"):
            raise SourceError(f"{pattern}: the server has no such file")  # and most HTTP servers cannot list
        folder = name.rstrip("/")
        return [f"{bucket}/{found}" for found in _list(bucket, f"{folder}/" if folder else "")]
    folder = "/".join(parts[:fixed])
    found = _list(bucket, f"{folder}/" if folder else "")
    return [f"{bucket}/{name}" for name in found if _matches(name.split("/"), parts)]


def _matches(name: list[str], pattern: list[str]) -> bool:
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or _matches(name[1:], pattern)
    return fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _exists(bucket: str, name: str) -> bool:
    try:
        open_blob(bucket).size(name)
    except FileNotFoundError:
        return False
    except (Unavailable, OSError) as error:
        raise SourceError(f"{bucket}/{name}: {error}") from error
    return True


def _list(bucket: str, prefix: str) -> list[str]:
    try:
        return open_blob(bucket).list(prefix)
    except FileNotFoundError:
        return []
    except (StoreError, Unavailable, OSError) as error:
        raise SourceError(
            f"{bucket}/{prefix}: cannot be listed: {error}. Name the files themselves"
        ) from error
