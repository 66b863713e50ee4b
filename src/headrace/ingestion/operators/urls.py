"""URLs -> hashes by which pages of one address are told: deduplication by URL."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from headrace.ingestion.operators import exact

_PORTS = {"http": 80, "https": 443}


def sketch(urls: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """Hash of each normal URL: uint64 [n, 2]; 0 for documents without one, which are never repeats."""
    sketches = exact.sketch([b"" if not url else normal_url(url).encode("utf-8", "replace") for url in urls])
    sketches[[not url or not url.strip() for url in urls]] = 0
    return sketches


def repeats(sketches: Sequence[npt.NDArray[np.uint64]]) -> npt.NDArray[np.bool_]:
    """See `exact.repeats`; documents without a URL are none."""
    repeated = exact.repeats(sketches)
    at = 0
    for part in sketches:
        repeated[at : at + len(part)] &= part.any(axis=1)
        at += len(part)
    return repeated


def normal_url(url: str) -> str:
    """The URL without what rarely changes the page: scheme, `www.`, default port, fragment, a slash at the end.

    >>> normal_url("HTTP://www.Example.org:80/a/?q=1#top")
    'example.org/a?q=1'
    """
    url = url.strip().removeprefix("<").removesuffix(">")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return url
    if not host:
        return url.partition("#")[0]
    host = host.removeprefix("www.")
    if port is not None and port != _PORTS.get(parts.scheme.lower()):
        host = f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{host}{parts.path.rstrip('/')}{query}"
