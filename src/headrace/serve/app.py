"""A loaded model -> the ASGI application: OpenAI's paths, the page, and what operators ask for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files as package_files
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from headrace import __version__
from headrace.errors import HeadraceError
from headrace.serve import batches, browse, files
from headrace.serve.ask import ask
from headrace.serve.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from headrace.serve.drive import Driver
from headrace.serve.guard import Guard, refusal_for
from headrace.serve.metrics import CONTENT_TYPE, Metrics
from headrace.serve.openapi import document
from headrace.serve.refusal import Refusal, invalid
from headrace.serve.respond import Reply
from headrace.serve.served import Served
from headrace.serve.wire import json_response, read_body

MAX_BODY_BYTES = 16 << 20
RETRY_AFTER_S = 1


class Server:
    """The application and its state: one model, one engine thread, one directory for files and batches.

    Args:
        served: the model.
        state: directory of uploaded files and batches; one server at a time writes it.
        api_keys: any of them opens the door; none: it stands open.
        max_queue: samples that may wait for a place; more are refused with 429.
        max_body_bytes: of a JSON body.
        predictions: name -> directory of a prediction store to be shown.
        allow_origins: origins whose pages may call this server (CORS); none by default.
    """

    def __init__(
        self,
        served: Served,
        *,
        state: Path,
        api_keys: Sequence[str] = (),
        max_queue: int = 1024,
        max_body_bytes: int = MAX_BODY_BYTES,
        predictions: Mapping[str, str] | None = None,
        allow_origins: Sequence[str] = (),
    ) -> None:
        self.served, self.draining = served, False
        self.metrics = Metrics(served.name)
        self.driver: Driver | None = None
        self.on_start: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self._created = int(time.time())
        self._max_queue = max_queue
        self._shelf = files.Shelf(state)
        self._batches = batches.Batches(self._shelf, served=served)
        self._page = package_files("headrace.serve").joinpath("page.html").read_bytes()
        self._document = orjson.dumps(document(title=f"headrace serving {served.name}", version=__version__))
        routes = [
            Route("/", self._show_page),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/v1/models/{name:path}", self._get_model),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/tokenizer_info", self._tokenizer_info),
            Route("/health", self._health),
            Route("/metrics", self._show_metrics),
            Route("/openapi.json", self._openapi),
            *self._shelf.routes(self._refuse_while_draining),
            *self._batches.routes(self._refuse_while_draining),
            *browse.routes(dict(predictions or {})),
        ]
        app: ASGIApp = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers=dict.fromkeys(
                (Refusal, HTTPException, HeadraceError, Exception), _answer_error
            ),
        )
        app = Guard(app, metrics=self.metrics, api_keys=api_keys, max_body_bytes=max_body_bytes)
        if allow_origins:
            app = CORSMiddleware(
                app, allow_origins=list(allow_origins), allow_methods=["*"], allow_headers=["*"]
            )
        self.app = app

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self.driver = Driver(self.served.engine, loop=loop, metrics=self.metrics, on_failure=self.on_failure)
        self.metrics.watch(self.driver)
        self._batches.start(self.driver)
        self.on_start()
        try:
            yield
        finally:
            await self._batches.stop()
            await asyncio.to_thread(self.driver.stop)

    def close(self) -> None:
        """Let go of the state directory."""
        self._shelf.close()

    async def drain(self, *, limit_s: float) -> None:
        """Refuse new requests and wait until the running ones ended, at most so long; batches pause."""
        self.draining = True
        await self._batches.stop()
        if self.driver is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.driver.idle.wait(), limit_s)

    # ---- OpenAI's paths ----

    async def _complete(self, request: Request) -> ASGIApp:
        return self._reply(await read_body(request, CompletionBody))

    async def _chat(self, request: Request) -> ASGIApp:
        return self._reply(await read_body(request, ChatBody))

    def _reply(self, body: CompletionBody | ChatBody) -> Reply:
        self._refuse_while_draining()
        driver = self._ready()
        if driver.waiting >= self._max_queue:
            raise self._busy(driver)
        asked = ask(body, self.served)
        count = len(asked.call.requests)
        if count > self._max_queue + self.served.batch_size:
            raise invalid(
                f"The request asks for {count} samples; this server queues at most {self._max_queue}.", "n"
            )
        if driver.waiting and driver.waiting + count > self._max_queue:
            raise self._busy(driver)
        return Reply(asked, served=self.served, driver=driver)

    def _busy(self, driver: Driver) -> Refusal:
        return Refusal(
            429,
            f"{driver.waiting} samples wait already, at most {self._max_queue} may. Try again later.",
            code="queue_full",
            headers={"retry-after": str(RETRY_AFTER_S)},
        )

    async def _list_models(self, _: Request) -> Response:
        return json_response({"object": "list", "data": [self._model()]})

    async def _get_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.served.name:
            raise Refusal(
                404, f"The model {name[:100]!r} does not exist.", param="model", code="model_not_found"
            )
        return json_response(self._model())

    def _model(self) -> dict[str, object]:
        return {
            "id": self.served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "headrace",
            "root": self.served.name,
            "parent": None,
            "max_model_len": self.served.context,
        }

    # ---- tokens ----

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        if (body.prompt is None) == (body.messages is None):
            raise invalid("Give either prompt or messages.", "prompt")
        if body.messages is not None:
            ids = self.served.encode_messages(body.messages, generation_prompt=body.add_generation_prompt)
        else:
            special = body.add_special_tokens and body.prompt != ""
            ids = self.served.encode(body.prompt or "", special=special)
        names = [self.served.token_name(one) for one in ids] if body.return_token_strs else None
        return json_response(
            {"count": len(ids), "max_model_len": self.served.context, "tokens": ids, "token_strs": names}
        )

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        return json_response({"prompt": self.served.decode(body.tokens)})

    async def _tokenizer_info(self, _: Request) -> Response:
        served = self.served
        eos = served.eos_id
        return json_response(
            {
                "tokenizer_class": served.tokenizer.name,
                "fingerprint": served.tokenizer_fingerprint,
                "vocab_size": served.vocab_size,
                "model_max_length": served.context,
                "eos_token": None if eos is None else served.token_name(eos),
                "eos_token_id": eos,
                "bos_token": None,
                "pad_token": None,
                "chat_template": served.chat_template,
            }
        )

    # ---- operators ----

    async def _health(self, _: Request) -> Response:
        if self.draining:
            return json_response({"status": "draining"}, status=503)
        if self.driver is None or self.driver.failure is not None:
            return json_response({"status": "failed"}, status=503)
        return json_response({"status": "ok"})

    async def _show_metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _openapi(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _show_page(self, _: Request) -> Response:
        # The page's own policy stands in it; what a page cannot say of itself is who may frame it.
        headers = {"x-content-type-options": "nosniff", "content-security-policy": "frame-ancestors 'none'"}
        return Response(self._page, media_type="text/html; charset=utf-8", headers=headers)

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Refusal(
                503,
                "The server is shutting down.",
                code="draining",
                headers={"retry-after": str(RETRY_AFTER_S), "connection": "close"},
            )

    def _ready(self) -> Driver:
        if self.driver is None or self.driver.failure is not None:
            failure = None if self.driver is None else self.driver.failure
            raise Refusal(
                503, f"The engine does not run ({failure}); restart the server.", code="engine_failed"
            )
        return self.driver


async def _answer_error(_: Request, error: Exception) -> Response:
    refusal = refusal_for(error)
    return json_response(refusal.content, status=refusal.status, headers=refusal.headers)
