"""A model, loaded or still loading -> the ASGI application: OpenAI's paths, the page, and what operators need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from headrace.errors import HeadraceError
from headrace.serve.batches import BatchQueue
from headrace.serve.completions import CompletionResponse, ServedModel, parse_request
from headrace.serve.engine_thread import EngineThread
from headrace.serve.files import FileStore
from headrace.serve.history import MetricsHistory
from headrace.serve.metrics import CONTENT_TYPE, Metrics
from headrace.serve.middleware import CACHE_SCOPE, RequestMiddleware, error_for
from headrace.serve.model_loader import CLIENT_HEADER, RETRY_AFTER_S, Load, ModelLoader
from headrace.serve.options import ServeOptions
from headrace.serve.origins import CrossOriginPolicy
from headrace.serve.page import page_routes
from headrace.serve.predictions import prediction_routes
from headrace.serve.protocol import (
    APIError,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    bad_request,
    json_response,
    openapi_document,
    read_body,
)
from headrace.serve.redaction import Redactor
from headrace.version import VERSION


class ModelServer:
    """The application and its state: one model, one engine thread, one directory of files and batches.

    /health, /metrics and the page answer while the model loads; requests that need it wait in the order they come.

    Args:
        name: what clients call the model.
        load: loads it; called when the application starts.
        state: directory of uploaded files and batches; one server at a time uses it.
        options: of the server.
        redact: removes the server's paths from error messages.
    """

    def __init__(
        self, name: str, load: Load, *, state: Path, options: ServeOptions, redact: Redactor
    ) -> None:
        self.name, self.draining = name, False
        self.loader = ModelLoader(load, max_waiting=options.max_queue)
        self.engine: EngineThread | None = None
        self.metrics = Metrics(
            name,
            gauges={
                "num_requests_running": ("Samples that decode now.", lambda: self._gauge("running")),
                "num_requests_waiting": ("Samples that wait for a free row.", self._num_waiting),
                "prefix_cache_memory_bytes": ("Bytes of prefixes in memory.", self._cached_bytes),
            },
        )
        self.on_start: Callable[[], None] = lambda: None
        self.on_loaded: Callable[[ServedModel], None] = lambda _: None
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self._created = int(time.time())
        self._max_queue = options.max_queue
        self._redact = redact
        self._history = MetricsHistory(self.metrics.read)
        self._files = FileStore(state, max_upload_bytes=options.max_upload_bytes)
        # Without keys all clients are one.
        self._share_prefixes = options.share_prefixes or not options.api_keys
        self._batches = BatchQueue(self._files, redact=redact, share_prefixes=self._share_prefixes)
        self._document = orjson.dumps(openapi_document(title=f"headrace serving {name}", version=VERSION))
        routes = [
            *self._openai_routes(),
            *self._operator_routes(),
            *self._files.routes(self._check_accepting),
            *self._batches.routes(self._check_accepting),
            *prediction_routes(options.stores),
            *page_routes(),
        ]
        app: ASGIApp = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers=dict.fromkeys(
                (APIError, HTTPException, HeadraceError, OSError, Exception), self._error_response
            ),
        )
        origins = options.allow_origins or ()
        app = RequestMiddleware(
            app,
            metrics=self.metrics,
            origins=CrossOriginPolicy(
                bound=options.host, allow_hosts=options.allow_hosts or (), allow_origins=origins
            ),
            api_keys=options.api_keys or (),
            max_body_bytes=options.max_body_bytes,
            redact=redact,
        )
        if origins:
            app = CORSMiddleware(app, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
        self.app = app

    def _openai_routes(self) -> list[Route]:
        return [
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/v1/models/{name:path}", self._get_model),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/tokenizer_info", self._tokenizer_info),
        ]

    def _operator_routes(self) -> list[Route]:
        return [
            Route("/health", self._health),
            Route("/metrics", self._show_metrics),
            Route("/metrics/history", self._show_history),
            Route("/openapi.json", self._show_openapi),
        ]

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        history = asyncio.get_running_loop().create_task(self._history.run())
        self.on_start()
        self.loader.start(on_loaded=self._start_engine, on_failure=self.on_failure)
        try:
            yield
        finally:
            history.cancel()
            with suppress(asyncio.CancelledError):
                await history
            self.loader.refuse(_draining())
            await self._batches.stop()
            if self.engine is not None and self.loader.model is not None:
                await asyncio.to_thread(self.engine.stop)
                await asyncio.to_thread(self.loader.model.engine.close)

    def _start_engine(self, model: ServedModel) -> None:
        self.engine = EngineThread(
            model.engine, loop=asyncio.get_running_loop(), metrics=self.metrics, on_failure=self.on_failure
        )
        self._batches.start(self.engine, model)
        self.on_loaded(model)

    def close(self) -> None:
        """Release the state directory."""
        self._files.close()

    async def drain(self, *, limit_s: float) -> None:
        """Refuse new requests and wait until the running ones end, at most so long; batches pause."""
        self.draining = True
        self.loader.refuse(_draining())
        await self._batches.stop()
        if self.engine is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.engine.idle.wait(), limit_s)

    def _gauge(self, name: str) -> float:
        return 0.0 if self.engine is None else float(getattr(self.engine, name))

    def _num_waiting(self) -> float:
        return self.loader.waiting + self._gauge("waiting")

    def _cached_bytes(self) -> float:
        cache = None if self.loader.model is None else self.loader.model.engine.prefix_cache
        return 0.0 if cache is None else float(cache.nbytes)

    # ---- OpenAI's paths ----

    async def _complete(self, request: Request) -> ASGIApp:
        return await self._response(await read_body(request, CompletionBody), request)

    async def _chat(self, request: Request) -> ASGIApp:
        return await self._response(await read_body(request, ChatBody), request)

    async def _response(self, body: CompletionBody | ChatBody, http: Request) -> CompletionResponse:
        self._check_accepting()
        model = await self.loader.get(http.receive, client=http.headers.get(CLIENT_HEADER, ""))
        engine = self._running_engine()
        if engine.waiting >= self._max_queue:
            raise self._queue_full(engine)
        scope = "" if self._share_prefixes else http.scope[CACHE_SCOPE]
        request = parse_request(body, model, cache_scope=scope)
        count = len(request.tokens.requests)
        if count > self._max_queue + model.batch_size:
            raise bad_request(
                f"The request asks for {count} samples; this server queues at most {self._max_queue}.", "n"
            )
        if engine.waiting and engine.waiting + count > self._max_queue:
            raise self._queue_full(engine)
        return CompletionResponse(request, model=model, engine=engine)

    def _queue_full(self, engine: EngineThread) -> APIError:
        return APIError(
            429,
            f"{engine.waiting} samples wait already, at most {self._max_queue} may. Try again later.",
            code="queue_full",
            headers={"retry-after": str(RETRY_AFTER_S)},
        )

    async def _list_models(self, request: Request) -> Response:
        model = await self.loader.get(request.receive)
        return json_response({"object": "list", "data": [self._model_object(model)]})

    async def _get_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.name:
            raise APIError(
                404, f"The model {name[:100]!r} does not exist.", param="model", code="model_not_found"
            )
        return json_response(self._model_object(await self.loader.get(request.receive)))

    def _model_object(self, model: ServedModel) -> dict[str, object]:
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "headrace",
            "root": self.name,
            "parent": None,
            "max_model_len": model.context,
            "has_chat_template": model.has_chat_template,
        }

    # ---- tokens ----

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        if (body.prompt is None) == (body.messages is None):
            raise bad_request("Give either prompt or messages.", "prompt")
        model = await self.loader.get(request.receive)
        if body.messages is not None:
            ids = model.encode_messages(body.messages, generation_prompt=body.add_generation_prompt)
        else:
            special = body.add_special_tokens and body.prompt != ""
            ids = model.encode(body.prompt or "", special=special, split=body.split_special_tokens)
        names = [model.token_name(one) for one in ids] if body.return_token_strs else None
        return json_response(
            {"count": len(ids), "max_model_len": model.context, "tokens": ids, "token_strs": names}
        )

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        model = await self.loader.get(request.receive)
        return json_response({"prompt": model.decode(body.tokens)})

    async def _tokenizer_info(self, request: Request) -> Response:
        model = await self.loader.get(request.receive)
        eos = model.eos_id
        return json_response(
            {
                "tokenizer_class": model.tokenizer.name,
                "fingerprint": model.tokenizer_fingerprint,
                "vocab_size": model.vocab_size,
                "model_max_length": model.context,
                "eos_token": None if eos is None else model.token_name(eos),
                "eos_token_id": eos,
                "bos_token": None,
                "pad_token": None,
                "chat_template": model.chat_template,
            }
        )

    # ---- operators ----

    async def _health(self, request: Request) -> Response:
        if self.draining:
            return json_response({"status": "draining"}, status=503)
        if self.loader.loading:
            headers = {"retry-after": str(RETRY_AFTER_S)}
            state = self.loader.status(request.query_params.get("client", ""))
            return json_response(state, status=503, headers=headers)
        if self.engine is None or self.engine.failure is not None:
            return json_response({"status": "failed"}, status=503)
        return json_response({"status": "ok"})

    async def _show_metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _show_history(self, request: Request) -> Response:
        return history_response(self._history, request)

    async def _show_openapi(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")

    def _check_accepting(self) -> None:
        if self.draining:
            raise _draining()

    def _running_engine(self) -> EngineThread:
        if self.engine is None or self.engine.failure is not None:
            failure = None if self.engine is None else self.engine.failure
            raise APIError(
                503, f"The engine does not run ({failure}); restart the server.", code="engine_failed"
            )
        return self.engine

    async def _error_response(self, _: Request, error: Exception) -> Response:
        answer = error_for(error, redact=self._redact)
        return json_response(answer.content, status=answer.status, headers=answer.headers)


def _draining() -> APIError:
    return APIError(
        503,
        "The server is shutting down.",
        code="draining",
        headers={"retry-after": str(RETRY_AFTER_S), "connection": "close"},
    )


def history_response(history: MetricsHistory, request: Request) -> Response:
    """The samples of a server's history, after the moment of the parameter `after` (seconds since 1970).

    Raises:
        APIError: the parameter is no number.
    """
    text = request.query_params.get("after", "0")
    try:
        after = float(text)
    except ValueError as error:
        raise bad_request(f"after: {text[:40]!r}; expected seconds since 1970.", "after") from error
    return json_response(
        {"object": "list", "data": history.after(after)}, headers={"cache-control": "no-store"}
    )
