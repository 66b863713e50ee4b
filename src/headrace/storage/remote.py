"""A URL on S3, GCS, Azure or HTTP -> bytes by name, with retries that back off and recover.

Credentials, regions and endpoints come from the environment, by the names that each provider's own tools use
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...).
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from headrace.errors import StoreError, WorkerError
from headrace.storage.blob import Blob, Data, Unavailable, check_path, pieces
from headrace.types import Bytes

T = TypeVar("T")

# 408 and 429 ask for another try; every other 4xx, and 501, says that the request itself is wrong.
_PERMANENT = re.compile(
    r"\b(?:status:? |HTTP status |code: )?(4(?!08|29)\d\d|501) (?:Bad|Unauth|Forb|Method|Not|Conf|Gone)"
)
# What the client says of a URL that it will not ask; it does not say why.
_NOT_ASKED = re.compile(r"HTTP error: builder error|URL scheme is not allowed")
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
_PAST_THE_END = re.compile(r"\b416\b|Wanted range starting at")
_THROTTLED = re.compile(r"\b(429|503)\b|SlowDown|Too Many Requests|ServerBusy")
_ANSWER = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a remote is asked again."""

    attempts: int = 12
    first_wait_s: float = 0.1
    """Doubles with each failure, up to `max_wait_s`; the actual wait is random between half of it and it."""
    max_wait_s: float = 15.0
    sleep: Callable[[float], None] = time.sleep
    """Tests pass a clock of their own."""
    draw: Callable[[], float] = random.random

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        full = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + 0.5 * self.draw())

    def run(
        self, work: Callable[[], T], *, what: str, failed: Callable[[Unavailable], None] | None = None
    ) -> T:
        """Do it, again and again while the remote is unavailable.

        Raises:
            WorkerError: `attempts` tries have failed.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return work()
            except Unavailable as error:
                if failed is not None:
                    failed(error)
                if attempt == self.attempts:
                    raise WorkerError(
                        f"{what}: failed {attempt} times, the last with: {error}. "
                        "Is the endpoint up and reachable? What was committed is unchanged; run the command again."
                    ) from error
                self.sleep(self.wait_s(attempt))
        raise AssertionError("attempts >= 1")


def _in_words(text: str) -> str:
    """The first line of a client's error, and what the server said in its XML."""
    first = text.splitlines()[0].partition(": <?xml")[0][:400]
    said = _ANSWER.search(text)
    return first if said is None else f"{first}: {said[1]}: {said[2] or ''}".rstrip(": ")


class RemoteBlob:
    """An object store or HTTP server under a URL; every call is one try."""

    def __init__(self, url: str) -> None:
        import obstore

        self._url = url.rstrip("/")
        options: dict[str, Any] = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10)}
        if url.startswith("http://") or any(
            os.environ.get(n, "").lower() in ("1", "true") for n in _ALLOW_HTTP
        ):
            options["allow_http"] = True
        # Retries are ours: they tell the fetcher that it asks too much, and tests replace their clock.
        self._store: Any = obstore.store.from_url(
            self._url,
            client_options=cast("Any", options),
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=60)},
        )
        self._obstore = obstore

    @property
    def url(self) -> str:
        """What it was opened with."""
        return self._url

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        exceptions = self._obstore.exceptions
        where = f"{self._url}/{path}"
        try:
            yield
        except exceptions.NotFoundError as error:
            raise FileNotFoundError(2, "no such object", where) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StoreError(
                f"{where}: access denied; check the credentials in the environment ({error})"
            ) from error
        except (exceptions.NotSupportedError, NotImplementedError) as error:
            # A server without ranges never learns them; asked again and again it took 50 s to say so.
            raise StoreError(f"{where}: the server cannot do this: {str(error).splitlines()[0]}") from error
        except exceptions.BaseError as error:
            text = str(error)
            if _NOT_ASKED.search(text):
                raise StoreError(
                    f"{where}: the endpoint is plain HTTP, or no URL. Plain HTTP is allowed by {_ALLOW_HTTP[0]}=true "
                    f"({', '.join(_ALLOW_HTTP[1:])} mean the same): {_in_words(text)}"
                ) from error
            if _PERMANENT.search(text):
                raise StoreError(f"{where}: the server refuses: {_in_words(text)}") from error
            raise Unavailable(
                f"{where}: {_in_words(text)}", throttled=bool(_THROTTLED.search(text))
            ) from error

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        with self._errors(path):
            return int(self._obstore.head(self._store, check_path(path))["size"])

    def get(self, path: str) -> Bytes:
        """See `Blob.get`."""
        with self._errors(path):
            return memoryview(self._obstore.get(self._store, check_path(path)).bytes())

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """See `Blob.get_range`."""
        if stop <= start:
            return b""
        with self._errors(path):
            try:
                return memoryview(
                    self._obstore.get_range(self._store, check_path(path), start=start, end=stop)
                )
            except self._obstore.exceptions.BaseError as error:
                if _PAST_THE_END.search(str(error)):
                    return b""
                raise

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        with self._errors(path):
            self._obstore.put(self._store, check_path(path), b"".join(pieces(data)))

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`."""
        with self._errors(path):
            try:
                self._obstore.put(self._store, check_path(path), b"".join(pieces(data)), mode="create")
            except self._obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        with self._errors(prefix):
            found = self._obstore.list(self._store, prefix.rstrip("/") or None)
            return sorted(str(item["path"]) for batch in found for item in batch)

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        with self._errors(path):
            try:
                self._obstore.delete(self._store, check_path(path))
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return  # Azure's bulk request has an error of its own for it


class RetryingBlob:
    """A blob whose calls are tried again while it is unavailable."""

    def __init__(self, inner: Blob, retry: Retry) -> None:
        self.inner = inner
        self.retry = retry

    @property
    def url(self) -> str:
        """The inner blob's URL."""
        return self.inner.url

    def _run(self, path: str, work: Callable[[], T]) -> T:
        return self.retry.run(work, what=f"{self.url}/{path}")

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        return self._run(path, lambda: self.inner.size(path))

    def get(self, path: str) -> Bytes:
        """See `Blob.get`."""
        return self._run(path, lambda: self.inner.get(path))

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """See `Blob.get_range`."""
        return self._run(path, lambda: self.inner.get_range(path, start, stop))

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        self._run(path, lambda: self.inner.put(path, data))

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`; a first try whose answer was lost counts as ours if the bytes are ours."""
        failures = 0

        def once() -> bool:
            nonlocal failures
            try:
                return self.inner.put_if_absent(path, data)
            except Unavailable:
                failures += 1
                raise

        if self._run(path, once):
            return True
        return failures > 0 and bytes(self.get(path)) == b"".join(pieces(data))

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        return self._run(prefix, lambda: self.inner.list(prefix))

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        self._run(path, lambda: self.inner.delete(path))
