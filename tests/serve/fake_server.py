"""A server whose answers a test writes: faults, texts and paces that a real model does not give on demand."""

import asyncio
import json
import threading

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from headrace.serve.app import history_response
from headrace.serve.history import MetricsHistory
from headrace.serve.metrics import read_registry
from headrace.serve.page import page_routes
from headrace.serve.predictions import prediction_routes

TIMES = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
)


class FakeServer:
    """Serves the page and OpenAI's protocol on loopback, in a thread.

    script: pieces of an answer: text, (text, tokens), an event, a threading.Event that is waited for, or an Exception
        that breaks the connection; INDEX in a text is the choice's index.
    health: what /health answers.
    refuse: (status, headers, body) instead of any answer, until it is None again.
    """

    def __init__(self, *, stores=None, api_key=None):
        self.api_key = api_key
        self.reset()
        self.registry = CollectorRegistry()
        self.running = Gauge("num_requests_running", "running", registry=self.registry)
        self.waiting = Gauge("num_requests_waiting", "waiting", registry=self.registry)
        self.generated = Counter("generation_tokens", "generated", registry=self.registry)
        self.prompted = Counter("prompt_tokens", "prompted", registry=self.registry)
        bounds = [0.001 * 1.5**i for i in range(24)]
        self.times = {name: Histogram(name, name, buckets=bounds, registry=self.registry) for name in TIMES}
        self.history = MetricsHistory(lambda: read_registry(self.registry))
        self._sampling = None
        routes = [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/metrics/history", self._history),
            *page_routes(),
            *prediction_routes(stores or {}),
        ]
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app(Starlette(routes=routes)),
                port=0,
                log_level="error",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def reset(self):
        self.script, self.pace_s, self.refuse = ["Hello", " world"], 0.0, None
        self.chat_template = False
        self.health = {"status": "ok"}
        self.requests, self.cancelled, self.paths = [], threading.Event(), []

    def _app(self, inner):
        async def app(scope, receive, send):
            if scope["type"] == "http":
                self.paths.append(scope["path"])
            await inner(scope, receive, send)

        return app

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._server.should_exit = True
        self._thread.join(10)

    async def _health(self, _):
        return JSONResponse(self.health, status_code=200 if self.health == {"status": "ok"} else 503)

    async def _models(self, request):
        return self._refusal(request) or JSONResponse(
            {
                "object": "list",
                "data": [{"id": "fake-125m", "object": "model", "has_chat_template": self.chat_template}],
            }
        )

    async def _tokenize(self, request):
        text = (await request.json())["prompt"]
        return JSONResponse(
            {"count": len(text.encode()), "max_model_len": 2048, "tokens": list(text.encode())}
        )

    async def _history(self, request):
        if self._sampling is None:
            self._sampling = asyncio.get_running_loop().create_task(self.history.run())
            await asyncio.sleep(0)
        return history_response(self.history, request)

    def _refusal(self, request):
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return error(401, "Incorrect API key provided.")
        if self.refuse:
            return error(*self.refuse)
        return None

    async def _complete(self, request):
        body = await request.json()
        self.requests.append(body)
        return self._refusal(request) or StreamingResponse(
            self._stream(body, chat="messages" in body), media_type="text/event-stream"
        )

    async def _stream(self, body, *, chat):
        count = 0
        try:
            for piece in self.script:
                await asyncio.sleep(self.pace_s)
                if isinstance(piece, threading.Event):
                    await asyncio.to_thread(piece.wait, 15)
                    continue
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, dict):
                    yield event(piece)
                    continue
                text, tokens = piece if isinstance(piece, tuple) else (piece, [piece])
                logprobs = bool(body.get("logprobs"))
                for index in range(body.get("n", 1)):
                    named = [token.replace("INDEX", str(index)) for token in tokens]
                    made = choice(
                        index, text.replace("INDEX", str(index)), named, chat=chat, logprobs=logprobs
                    )
                    yield event({"choices": [made]})
                count += len(tokens)
            last = {"delta": {}} if chat else {"text": ""}
            for index in range(body.get("n", 1)):
                yield event({"choices": [{"index": index, "finish_reason": "stop", "logprobs": None} | last]})
            usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
            yield event({"choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


def choice(index, text, tokens, *, chat, logprobs):
    others = {"<b>other</b>": -1.5, " \n": -2.5, "\u202e": -3.5}
    values = [-0.05, -0.4, -1.2, -2.4, -4.0]
    found = [values[len(token) % 5] for token in tokens]
    if chat:
        content = [
            {
                "token": t,
                "logprob": v,
                "top_logprobs": [{"token": k, "logprob": p} for k, p in ({t: v} | others).items()],
            }
            for t, v in zip(tokens, found, strict=True)
        ]
        return {
            "index": index,
            "delta": {"content": text},
            "logprobs": {"content": content} if logprobs else None,
        }
    said = {
        "tokens": list(tokens),
        "token_logprobs": found,
        "top_logprobs": [{t: v} | others for t, v in zip(tokens, found, strict=True)],
    }
    return {"index": index, "text": text, "logprobs": said if logprobs else None, "finish_reason": None}


def event(content):
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def error(status, message, headers=None):
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)
