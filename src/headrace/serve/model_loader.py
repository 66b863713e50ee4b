"""A function that loads a model -> the model, for requests that came before it was there too."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from headrace.serve.completions import ServedModel
from headrace.serve.protocol import APIError
from headrace.storage import Progress

RETRY_AFTER_S = 1
CLIENT_HEADER = "x-client-id"
"""Of a request, if the client wants to know its place: any name that no other client has."""

Load: TypeAlias = Callable[[Progress], ServedModel]
"""Loads the model and reports (bytes done, bytes in all, note); called in a thread of its own."""


class ModelLoader:
    """Loads a server's model beside the event loop. All methods are called on the event loop's thread.

    Args:
        load: see `Load`.
        max_waiting: requests that may wait for the model; more are refused with status 429.
    """

    def __init__(self, load: Load, *, max_waiting: int) -> None:
        self._load, self._max_waiting = load, max_waiting
        self.model: ServedModel | None = None
        self._queue: dict[object, str] = {}
        """Requests that wait for the model, and who sent them; they go on in the order in which they came."""
        self._error: APIError | None = None
        self._ended = asyncio.Event()
        self._progress: tuple[int, int | None, str] = (0, None, "")
        self._began = time.monotonic()

    @property
    def waiting(self) -> int:
        """Requests that wait for the model."""
        return len(self._queue)

    @property
    def loading(self) -> bool:
        """Whether it has neither loaded nor failed."""
        return not self._ended.is_set()

    def start(
        self, *, on_loaded: Callable[[ServedModel], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        """Begin to load; one of the functions is called on the event loop's thread at the end."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            try:
                model = self._load(self._report)
            except BaseException as error:  # noqa: BLE001  # whatever it was, those who wait must be told
                _call_in(loop, fail, error)
            else:
                if not _call_in(loop, succeed, model):
                    model.engine.close()

        def succeed(model: ServedModel) -> None:
            if self._error is not None:  # the server ends
                model.engine.close()
                return
            self.model = model
            on_loaded(model)
            self._ended.set()

        def fail(error: BaseException) -> None:
            self.refuse(APIError(503, f"The model could not be loaded: {error}", code="model_failed"))
            on_failure(error)

        # A daemon: a read of a store that hangs must not keep the process from ending.
        threading.Thread(target=run, name="load-model", daemon=True).start()

    def refuse(self, error: APIError) -> None:
        """End the wait of all requests, and of those to come, with an error; nothing once the model is there."""
        if self.model is None and self._error is None:
            self._error = error
            self._ended.set()

    async def get(self, receive: Receive, *, client: str = "") -> ServedModel:
        """The model; a request that comes before it waits.

        Args:
            receive: of the request, whose body has been read: a client that disconnects gives up its place.
            client: what the client calls itself, to ask for its place.

        Raises:
            APIError: too many wait, the model could not be loaded, or the server ends.
            ClientDisconnect: the client is gone.
        """
        if self.loading:
            await self._wait(receive, client)
        if self.model is None:
            assert self._error is not None
            raise self._error
        return self.model

    async def _wait(self, receive: Receive, client: str) -> None:
        if self.waiting >= self._max_waiting:
            raise APIError(
                429,
                f"The model is loading, and {self.waiting} requests wait for it already. Try again later.",
                code="queue_full",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
        ticket = object()
        self._queue[ticket] = client
        ended = asyncio.ensure_future(self._ended.wait())
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not ended.done():
                raise ClientDisconnect
        finally:
            del self._queue[ticket]
            ended.cancel()
            gone.cancel()

    def status(self, client: str = "") -> dict[str, Any]:
        """What /health says while the model loads.

        `share` is 0 to 1, or null while the size is unknown; `rate` names bytes a second and what limits them. `place`
        is that of the client's first request among those that wait, from 1 on; it is left out where none waits.
        """
        places = (place for place, name in enumerate(self._queue.values(), 1) if client and name == client)
        place = next(places, None)
        done, total, note = self._progress
        return {
            "status": "loading",
            "share": round(done / total, 4) if total else None,
            "bytes_done": done,
            "bytes_total": total,
            "rate": note,
            "seconds": round(time.monotonic() - self._began, 1),
            "waiting": self.waiting,
            **({} if place is None else {"place": place}),
        }

    def _report(self, done: int, total: int | None, note: str) -> None:
        self._progress = (done, total, note)  # one store: the loop's thread reads it whole


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> bool:
    """Call on the event loop's thread; False where the loop has ended."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return False
    return True


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
