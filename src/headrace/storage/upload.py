"""A local file -> an object, by multipart upload where the blob has it; counted, and ended between two parts.

A part that fails is sent again by the client; a file that fails is sent again as a whole by `RetryingBlob`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from headrace.storage.protocol import Blob
from headrace.storage.remote import RemoteBlob
from headrace.storage.retry import RetryingBlob

PART_BYTES: Final = 16 << 20
"""S3 takes 10,000 parts of an object at most: 160 GB of one rank's shards."""
MAX_PARTS: Final = 10_000
Count = Callable[[int], None]
"""Called with a number of bytes that were sent; what it raises ends the upload."""


def upload_file(blob: Blob, name: str, path: Path, *, count: Count = lambda _: None) -> None:
    """Write a file's bytes under a name, all of them or none; memory is bounded.

    Args:
        blob: where to.
        name: of the object; replaced where it exists.
        path: the file; it must not change meanwhile.
        count: called with the bytes of each part that was sent. A file that is sent again takes its bytes back.

    Raises:
        WorkerError: the remote does not answer.
        StorageError: it refuses.
    """
    nbytes = path.stat().st_size
    remote = blob.inner if isinstance(blob, RetryingBlob) else blob
    if not isinstance(remote, RemoteBlob) or nbytes <= PART_BYTES:
        count(0)
        blob.put(name, _whole(path, nbytes))
        count(nbytes)
        return
    part_bytes = max(PART_BYTES, -(-nbytes // MAX_PARTS))

    def once() -> None:
        sent = 0

        def counted() -> Iterator[memoryview]:
            nonlocal sent
            with path.open("rb") as file:
                while part := file.read(part_bytes):
                    yield memoryview(part)
                    sent += len(part)
                    count(len(part))

        try:
            remote.put_parts(name, counted(), part_bytes=part_bytes)
        except BaseException:
            count(-sent)
            raise

    if isinstance(blob, RetryingBlob):
        blob.run(name, once)
    else:
        once()


def _whole(path: Path, nbytes: int) -> bytes | memoryview:
    with path.open("rb") as file:
        if nbytes <= PART_BYTES:
            return file.read()
        # Mapped, so that a large file is not in memory a second time; the map is closed with its last user.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
