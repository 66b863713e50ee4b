"""A URL on S3, GCS, Azure or HTTP -> bytes by name; each call is one try.

Credentials, regions and endpoints come from the environment, by the names that each provider's own tools use
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...).

Time limits bound silence, not work: a download may last as long as bytes arrive, and an upload that was too slow for
its limit gets twice the limit, and the whole line, at its next try. A download that is much slower than those before
it is requested a second time, and the faster of the two is taken.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from headrace.errors import StoreError
from headrace.storage import event_loop
from headrace.storage.protocol import Data, ObjectInfo, Unavailable, as_buffers, check_path
from headrace.storage.retry import Cancelled
from headrace.types import Bytes

T = TypeVar("T")

SILENCE_S: Final = 30.0
"""A download that brings no byte for so long has failed."""
UPLOAD_S: Final = 60.0
"""First limit of an upload's request; doubles with each upload that runs into it."""
MAX_UPLOAD_S: Final = 960.0
HEDGE_MIN_S: Final = 0.5
"""A second request is never sent before."""
HEDGE_FACTOR: Final = 4.0
"""It is sent when the first lasts so many times as long as the slowest of the last requests."""
_FIRST_HEDGE_S: Final = 5.0
_PART_RETRIES: Final = 8
"""Of one part of a multipart upload: a file of a thousand parts does not begin again for one that was refused."""
_PARTS_IN_FLIGHT: Final = 4
_HEDGE_WINDOW: Final = 64

# 408 and 429 ask for another try; every other 4xx, and 501, says that the request itself is wrong.
_PERMANENT = re.compile(
    r"\b(?:status:? |HTTP status |code: )?(4(?!08|29)\d\d|501) (?:Bad|Unauth|Forb|Method|Not|Conf|Gone)"
)
# S3's codes behind a 400 or 409 that are worth another try: a body that came too slowly, two writers at once.
_TRANSIENT = re.compile(r"RequestTimeout|OperationAborted|ConditionalRequestConflict|RequestTimeTooSkewed")
# The client's words for a URL that it does not send a request to; it does not say why.
_NOT_SENT = re.compile(r"HTTP error: builder error|URL scheme is not allowed")
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
_PAST_THE_END = re.compile(r"\b416\b|Wanted range starting at")
_THROTTLED = re.compile(r"\b(429|503)\b|SlowDown|Too Many Requests|ServerBusy")
_TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)
# The reasons, in the client's own words, for which no connection was made.
_NOT_CONNECTED = re.compile(
    r"Connection refused|No route to host|Network is unreachable"
    r"|Name or service not known|No address associated with hostname|nodename nor servname provided"
)
_reached: set[str] = set()
"""Scheme and host, or bucket, of every URL that has answered this process."""
_XML_ERROR = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")


def summarize_error(text: str) -> str:
    """The first line of a client's error, why it could not connect, and the code and message of the server's XML."""
    first = text.splitlines()[0].partition(": <?xml")[0][:400]
    xml = _XML_ERROR.search(text)
    if xml is None and (reason := _NOT_CONNECTED.search(text)):
        return f"{first}: {reason[0]}"
    return first if xml is None else f"{first}: {xml[1]}: {xml[2] or ''}".rstrip(": ")


class HedgeDelay:
    """Durations of the last requests -> how long to wait before a second one is sent; safe for threads."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_HEDGE_WINDOW)
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """A request succeeded in so many seconds."""
        with self._lock:
            self._seconds.append(seconds)

    def seconds(self) -> float:
        """Seconds after which a request counts as stuck."""
        with self._lock:
            if not self._seconds:
                return _FIRST_HEDGE_S
            return max(HEDGE_MIN_S, HEDGE_FACTOR * max(self._seconds))


class RemoteBlob:
    """An object store or HTTP server under a URL; see `Blob`."""

    def __init__(self, url: str, *, silence_s: float = SILENCE_S, upload_s: float = UPLOAD_S) -> None:
        import obstore

        self._url = url.rstrip("/")
        self._endpoint = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self._obstore = obstore
        self._hedge = HedgeDelay()
        self._reader = self._connect(read_timeout=silence_s, timeout=86400.0)
        self._upload_s = upload_s
        self._writer = self._connect(timeout=upload_s)
        self._part_writer: Any = None

    def _connect(self, *, retries: int = 0, **seconds: float) -> Any:
        options: dict[str, Any] = {name: timedelta(seconds=value) for name, value in seconds.items()}
        options["connect_timeout"] = timedelta(seconds=10)
        allowed = any(os.environ.get(name, "").lower() in ("1", "true") for name in _ALLOW_HTTP)
        if self._url.startswith("http://") or allowed:
            options["allow_http"] = True
        # Retries are ours: they tell the limiter that a remote refuses, and tests replace their clock.
        return self._obstore.store.from_url(
            self._url,
            client_options=cast("Any", options),
            retry_config={
                "max_retries": retries,
                "retry_timeout": timedelta(seconds=60 if retries == 0 else 600),
            },
        )

    @property
    def url(self) -> str:
        """The URL that it was opened with."""
        return self._url

    def _run(self, path: str, make: Callable[[], Awaitable[T]], *, hedge: bool = False) -> T:
        """Run one request; errors of the client and the server become ours."""
        with self._errors(path):
            return self._run_hedged(make) if hedge else event_loop.run(make)

    def _run_hedged(self, make: Callable[[], Awaitable[T]]) -> T:
        began = time.monotonic()
        result = event_loop.run(make, hedge_s=self._hedge.seconds())
        self._hedge.add(time.monotonic() - began)
        return result

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        exceptions = self._obstore.exceptions
        where = f"{self._url}/{path}"
        try:
            yield
            _reached.add(self._endpoint)
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            _reached.add(self._endpoint)
            raise FileNotFoundError(2, "no such object", where) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StoreError(
                f"{where}: access denied; check the credentials in the environment ({error})"
            ) from error
        except (exceptions.NotSupportedError, NotImplementedError) as error:
            # A server without ranges will not learn them; retried, it took 50 s to say so.
            raise StoreError(f"{where}: the server cannot do this: {str(error).splitlines()[0]}") from error
        except exceptions.AlreadyExistsError as error:
            if not _TRANSIENT.search(str(error)):  # the client reads every 409 as this error
                raise
            raise Unavailable(f"{where}: {summarize_error(str(error))}") from error
        except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            raise Cancelled(f"{where}: cancelled, as the process is ending") from error
        except exceptions.BaseError as error:
            text = str(error)
            if _NOT_SENT.search(text):
                raise StoreError(
                    f"{where}: the endpoint is plain HTTP, or no URL. Plain HTTP is allowed by {_ALLOW_HTTP[0]}=true "
                    f"({', '.join(_ALLOW_HTTP[1:])} mean the same): {summarize_error(text)}"
                ) from error
            if _PERMANENT.search(text) and not _TRANSIENT.search(text):
                raise StoreError(f"{where}: the server refuses: {summarize_error(text)}") from error
            raise Unavailable(
                f"{where}: {summarize_error(text)}",
                throttled=bool(_THROTTLED.search(text)),
                timed_out=bool(_TIMED_OUT.search(text)),
                unreachable=bool(_NOT_CONNECTED.search(text)) and self._endpoint not in _reached,
            ) from error

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        return self.info(path).nbytes

    def info(self, path: str) -> ObjectInfo:
        """See `Blob.info`."""
        name = check_path(path)
        head = self._run(path, lambda: self._obstore.head_async(self._reader, name), hedge=True)
        version = f"{head.get('e_tag') or ''} {head.get('last_modified') or ''}"
        return ObjectInfo(nbytes=int(head["size"]), version=version)

    def get(self, path: str) -> Bytes:
        """See `Blob.get`."""
        name = check_path(path)

        def make() -> Awaitable[Any]:
            request: Awaitable[Any] = self._obstore.get_async(self._reader, name)
            return request

        with self._errors(path):
            # A second request for an answer that does not begin; its body, of any length, is read once.
            answer = self._run_hedged(make)
            return memoryview(event_loop.run(answer.bytes_async))

    def get_range(self, path: str, start: int, stop: int) -> Bytes:
        """See `Blob.get_range`."""
        if stop <= start:
            return b""
        name = check_path(path)

        def make() -> Awaitable[Any]:
            request: Awaitable[Any] = self._obstore.get_range_async(self._reader, name, start=start, end=stop)
            return request

        with self._errors(path):
            try:
                return memoryview(self._run_hedged(make))
            except self._obstore.exceptions.BaseError as error:
                if _PAST_THE_END.search(str(error)):
                    return b""
                raise

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        try:
            self._upload(path, data)
        except self._obstore.exceptions.AlreadyExistsError as error:
            raise StoreError(
                f"{self._url}/{path}: the server refuses: {summarize_error(str(error))}"
            ) from error

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`."""
        try:
            self._upload(path, data, mode="create")
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def _upload(self, path: str, data: Data, **options: Any) -> None:
        name, buffers = check_path(path), as_buffers(data)
        # One buffer is sent as it is: a mapped file of many gigabytes is not copied into memory.
        joined = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        if self._upload_s > UPLOAD_S:
            options["max_concurrency"] = 1  # a slow line: one part after the other, each with all of it

        async def put() -> None:
            await self._obstore.put_async(self._writer, name, joined, **options)

        with self._more_time_after_a_timeout():
            self._run(path, put)

    @contextmanager
    def _more_time_after_a_timeout(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            if error.timed_out and self._upload_s < MAX_UPLOAD_S:
                self._upload_s *= 2
                self._writer = self._connect(timeout=self._upload_s)
                self._part_writer = None
            raise

    def put_parts(self, path: str, parts: Iterable[Bytes], *, part_bytes: int) -> None:
        """Write an object by multipart upload: its name is there when the last part is, or not at all.

        A part that the server refuses for now is sent again by the client. After an upload in which a part was too
        slow for its limit, parts go one after the other, each with the whole line and twice the time. Parts of an
        upload that ends before stay on the server without a name, until a lifecycle rule of the bucket removes them.

        Args:
            path: the name.
            parts: its bytes in order; each is taken when the one before is under way.
            part_bytes: of each part but the last.
        """
        name = check_path(path)
        in_flight = _PARTS_IN_FLIGHT if self._upload_s <= UPLOAD_S else 1
        if self._part_writer is None:
            # Parts in flight share the line, and so does their time.
            self._part_writer = self._connect(retries=_PART_RETRIES, timeout=self._upload_s * in_flight)
        writer = self._obstore.open_writer_async(
            self._part_writer, name, buffer_size=part_bytes, max_concurrency=in_flight
        )
        with self._more_time_after_a_timeout():
            for part in parts:
                self._run(path, functools.partial(writer.write, part))
            self._run(path, writer.close)

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""

        async def names() -> list[str]:
            stream = self._obstore.list(self._reader, prefix.rstrip("/") or None)
            return sorted([str(item["path"]) async for batch in stream for item in batch])

        return self._run(prefix, names)

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""

        async def delete() -> None:
            try:
                await self._obstore.delete_async(self._writer, check_path(path))
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return  # Azure's bulk request has an error of its own for it

        self._run(path, delete)
