"""Byte ranges of a blob's objects -> memory that is there, by many large requests in flight.

A range is read into its last place where its bytes are needed as they are. Elsewhere a function of the caller gets them
in a buffer that is used again, in the thread that read them: reading and converting overlap, and memory is bounded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from headrace.errors import StorageError
from headrace.storage.local import LocalBlob
from headrace.storage.protocol import Blob
from headrace.storage.threads import INTERRUPT_S, DaemonPool

Progress: TypeAlias = Callable[[int, int | None, str], None]
"""Called with (bytes done, bytes in all, note)."""
REQUEST_BYTES: Final = 8 << 20
LOCAL_REQUESTS: Final = 32
"""In flight on a mounted disk: a local NVMe disk needs 8 for its full speed, one of the network at 20 ms a read 32."""
REMOTE_REQUESTS: Final = 32
"""In flight on an object store: one connection brings some 50 to 100 MB/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRead:
    """Bytes [start, stop) of an object, and what becomes of them; one of `into` and `use` is given."""

    name: str
    start: int
    stop: int
    into: tuple[memoryview, ...] = ()
    """Writable memory of stop - start bytes in all, filled in this order."""
    use: Callable[[memoryview], None] | None = None
    """Called with the bytes in a thread of the reader; they are valid until it returns."""
    read_only: bool = False
    """`use` writes nothing into the bytes: those of a remote's client are handed on without a copy."""


class BulkReader:
    """Reads ranges of one blob; its counters say what takes the time.

    Args:
        blob: what is read.
        num_requests: in flight at most; default by the kind of the blob.
        max_buffer_bytes: limits the buffers, and with them the requests in flight.
        request_bytes: of the largest range.
    """

    def __init__(
        self,
        blob: Blob,
        *,
        num_requests: int | None = None,
        max_buffer_bytes: int = REMOTE_REQUESTS * REQUEST_BYTES,
        request_bytes: int = REQUEST_BYTES,
    ) -> None:
        self._blob = blob
        most = LOCAL_REQUESTS if isinstance(blob, LocalBlob) else REMOTE_REQUESTS
        self._num_requests = num_requests or max(2, min(most, max_buffer_bytes // request_bytes))
        self._buffers = threading.local()
        self.medium = "disk" if isinstance(blob, LocalBlob) else "store"
        self.read_s = 0.0
        """Time in which bytes were read, summed over the requests."""
        self.used_s = 0.0
        """Time in which bytes were used, summed likewise."""

    def read(self, reads: Sequence[RangeRead]) -> Iterator[int]:
        """Read all ranges; yields the number of each when its bytes are in place. They start in the given order.

        Raises:
            FileNotFoundError: an object is missing.
            StorageError: an object ends before a range does.
        """
        pool = DaemonPool(self._num_requests, name="bulk-read")
        done: queue.SimpleQueue[tuple[int, float, float, BaseException | None]] = queue.SimpleQueue()
        started, running = 0, 0
        try:
            while running or started < len(reads):
                while running < self._num_requests and started < len(reads):
                    pool.submit(self._run, started, reads[started], done)
                    started, running = started + 1, running + 1
                number, read_s, used_s, error = _next(done)
                running -= 1
                self.read_s += read_s
                self.used_s += used_s
                if error is not None:
                    raise error
                yield number
        finally:
            pool.shutdown()

    def _run(
        self,
        number: int,
        one: RangeRead,
        done: queue.SimpleQueue[tuple[int, float, float, BaseException | None]],
    ) -> None:
        read_s = used_s = 0.0
        try:
            began = time.perf_counter()
            if one.read_only and not isinstance(self._blob, LocalBlob):
                data = memoryview(self._blob.get_range(one.name, one.start, one.stop)).cast("B")
                _check_length(self._blob, one.name, one.start, len(data), one.stop - one.start)
            else:
                target = one.into or (self._buffer(one.stop - one.start),)
                read_into(self._blob, one.name, one.start, target)
                data = target[0]
            read_s = time.perf_counter() - began
            if one.use is not None:
                one.use(data)
                used_s = time.perf_counter() - began - read_s
        except BaseException as error:  # noqa: BLE001  # raised where the bytes are awaited
            done.put((number, read_s, used_s, error))
        else:
            done.put((number, read_s, used_s, None))

    def _buffer(self, nbytes: int) -> memoryview:
        """A buffer of this thread."""
        kept: bytearray | None = getattr(self._buffers, "kept", None)
        if kept is None or len(kept) < nbytes:
            kept = self._buffers.kept = bytearray(nbytes)
        return memoryview(kept)[:nbytes]

    def note(self, nbytes: int, seconds: float) -> str:
        """The rate, and what limits it."""
        limiter = self.medium if self.read_s >= self.used_s else "processor"
        return f"{nbytes / max(seconds, 1e-9) / 1e6:,.0f} MB/s, limited by the {limiter}"


def _next(
    done: queue.SimpleQueue[tuple[int, float, float, BaseException | None]],
) -> tuple[int, float, float, BaseException | None]:
    while True:
        try:
            return done.get(timeout=INTERRUPT_S)
        except queue.Empty:
            continue


def read_into(blob: Blob, name: str, start: int, buffers: Sequence[memoryview]) -> None:
    """Fill buffers, one after the other, with an object's bytes from `start` on.

    Raises:
        FileNotFoundError: no such object.
        StorageError: it ends before the buffers are full.
    """
    nbytes = sum(map(len, buffers))
    if isinstance(blob, LocalBlob):
        got = blob.read_into(name, start, buffers)
    else:
        data = memoryview(blob.get_range(name, start, start + nbytes)).cast("B")
        got, at = len(data), 0
        for buffer in buffers if got == nbytes else ():
            buffer[:] = data[at : at + len(buffer)]
            at += len(buffer)
    _check_length(blob, name, start, got, nbytes)


def _check_length(blob: Blob, name: str, start: int, got: int, nbytes: int) -> None:
    if got != nbytes:
        raise StorageError(
            f"{blob.url}/{name}: ends at byte {start + got:,}, expected {start + nbytes:,} at least. "
            "Copied only in part, or changed meanwhile? Copy it again."
        )
