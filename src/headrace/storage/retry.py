"""A call that fails while a remote is unavailable -> the same call again, after waits that grow."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from headrace.errors import StorageError, StoreError, WorkerError
from headrace.storage.protocol import Blob, Data, ObjectInfo, Unavailable, as_buffers
from headrace.types import Bytes

T = TypeVar("T")


class Cancelled(StoreError):
    """The object was closed while a request was under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a call is retried, and the waits between its tries."""

    attempts: int = 12
    first_connection_attempts: int = 6
    """Tries, some 3 s, at an endpoint that this process has never reached and that cannot be connected to."""
    first_wait_s: float = 0.1
    """Doubles with each failure, up to `max_wait_s`; the actual wait is random between half of it and it."""
    max_wait_s: float = 15.0
    sleep: Callable[[float], None] | None = None
    """Tests pass a clock of their own."""
    random: Callable[[], float] = random.random

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        full = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + 0.5 * self.random())

    def lasting(self, seconds: float) -> Retry:
        """As often as fills about so many seconds, and no less often than before."""
        typical_wait_s = 0.75 * self.max_wait_s
        return dataclasses.replace(self, attempts=self.attempts + int(seconds / typical_wait_s))

    def run(
        self,
        work: Callable[[], T],
        *,
        what: str,
        failed: Callable[[Unavailable], None] | None = None,
        closed: threading.Event | None = None,
    ) -> T:
        """Call `work` until it succeeds, again and again while the remote is unavailable.

        Args:
            work: one try.
            what: names the request in messages.
            failed: called with each failure.
            closed: set when no thread waits for the result any more; no further try is made then.

        Raises:
            WorkerError: `attempts` tries have failed.
            StorageError: no connection could be made in `first_connection_attempts` tries.
            Cancelled: `closed` was set.
        """
        for attempt in range(1, self.attempts + 1):
            if closed is not None and closed.is_set():
                raise Cancelled(f"{what}: closed while a request was under way")
            try:
                return work()
            except Unavailable as error:
                if failed is not None:
                    failed(error)
                if error.unreachable and attempt >= self.first_connection_attempts:
                    raise StorageError(
                        f"{error}. Nothing answers at this address: is the URL right, and its server up?"
                    ) from error
                if attempt == self.attempts:
                    raise WorkerError(
                        f"{what}: failed {attempt} times, the last with: {error}. "
                        "Is the endpoint up and reachable? What was committed is unchanged; run the command again."
                    ) from error
                self._wait(self.wait_s(attempt), closed)
        raise AssertionError("attempts >= 1")

    def _wait(self, seconds: float, closed: threading.Event | None) -> None:
        if self.sleep is not None:
            self.sleep(seconds)
        else:
            (closed or threading.Event()).wait(seconds)


class RetryingBlob:
    """A blob whose calls are tried again while it is unavailable; see `Blob`.

    Args:
        inner: the blob.
        retry: how often, and the waits between.
        failed: called with each failure.
    """

    def __init__(
        self, inner: Blob, retry: Retry, *, failed: Callable[[Unavailable], None] | None = None
    ) -> None:
        self.inner = inner
        self.retry = retry
        self._failed = failed

    @property
    def url(self) -> str:
        """The inner blob's URL."""
        return self.inner.url

    def lasting(self, seconds: float, failed: Callable[[Unavailable], None]) -> RetryingBlob:
        """The same blob for a caller that can wait: its calls are tried again for about so many seconds."""
        return RetryingBlob(self.inner, self.retry.lasting(seconds), failed=failed)

    def run(self, path: str, work: Callable[[], T]) -> T:
        """Run a request about a name until it succeeds; see `Retry.run`."""
        return self.retry.run(work, what=f"{self.url}/{path}", failed=self._failed)

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        return self.run(path, lambda: self.inner.size(path))

    def info(self, path: str) -> ObjectInfo:
        """See `Blob.info`."""
        return self.run(path, lambda: self.inner.info(path))

    def get(self, path: str) -> Bytes:
        """See `Blob.get`."""
        return self.run(path, lambda: self.inner.get(path))

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """See `Blob.get_range`."""
        return self.run(path, lambda: self.inner.get_range(path, start, stop))

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        self.run(path, lambda: self.inner.put(path, data))

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`; a try whose response was lost counts as ours if the stored bytes are ours."""
        failures = 0

        def once() -> bool:
            nonlocal failures
            try:
                return self.inner.put_if_absent(path, data)
            except Unavailable:
                failures += 1
                raise

        if self.run(path, once):
            return True
        return failures > 0 and bytes(self.get(path)) == b"".join(as_buffers(data))

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        return self.run(prefix, lambda: self.inner.list(prefix))

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        self.run(path, lambda: self.inner.delete(path))
