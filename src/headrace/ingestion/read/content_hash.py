"""A file -> the hash of all its bytes, in chunks that several workers can hash.

A content hash is the XXH3-128 of the hex digests of the file's chunks of 64 MiB, one after the other. A unit hashes
its share of the chunks right after it has read the file, while the bytes are in the page cache. Remote objects are
not read twice: they have no content hash, and are told apart by size, time of change and a hash of 17 samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import xxhash

from headrace.errors import SourceError

CHUNK_BYTES = 64 << 20
_READ_BYTES = 4 << 20


def num_chunks(nbytes: int) -> int:
    """Chunks of a file; an empty file has one, which is empty.

    >>> num_chunks(0), num_chunks(64 << 20), num_chunks((64 << 20) + 1)
    (1, 1, 2)
    """
    return max(1, -(-nbytes // CHUNK_BYTES))


def has_content_hash(url: str) -> bool:
    """Is a source a local file?"""
    return "://" not in url


def hash_chunks(url: str, chunks: Iterable[int], *, nbytes: int | None = None) -> dict[int, str]:
    """Hex digest of each chunk of a local file.

    Args:
        url: path of the file.
        chunks: their numbers.
        nbytes: the file is taken to end here; None is its own end.

    Raises:
        SourceError: the file cannot be read.
    """
    digests: dict[int, str] = {}
    try:
        with open(url, "rb", buffering=0) as file:  # noqa: PTH123 - url is a path as it was typed
            size = os.fstat(file.fileno()).st_size
            buffer = memoryview(bytearray(max(1, min(_READ_BYTES, size))))
            for chunk in chunks:
                digest = xxhash.xxh3_128()
                file.seek(chunk * CHUNK_BYTES)
                left = CHUNK_BYTES if nbytes is None else min(CHUNK_BYTES, nbytes - chunk * CHUNK_BYTES)
                while left and (count := file.readinto(buffer[: min(left, len(buffer))])):
                    digest.update(buffer[:count])
                    left -= count
                digests[chunk] = digest.hexdigest()
    except OSError as error:
        raise SourceError(f"{url}: {error.strerror or error}") from error
    return digests


def join_chunks(digests: Mapping[int, str]) -> str:
    """The content hash of a file whose chunks 0 to n - 1 have these digests."""
    return xxhash.xxh3_128_hexdigest("".join(digests[chunk] for chunk in range(len(digests))).encode())


def hash_file(url: str, *, nbytes: int | None = None) -> str:
    """The content hash of a local file, or of its first bytes; see `hash_chunks`."""
    if nbytes is None:
        nbytes = os.stat(url).st_size  # noqa: PTH116 - url is a path as it was typed
    return join_chunks(hash_chunks(url, range(num_chunks(nbytes)), nbytes=nbytes))
