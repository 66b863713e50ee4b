"""A listening socket and options -> the running server, which loads its model: uvicorn, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from headrace.errors import HeadraceError, WorkerError
from headrace.paths import model_name
from headrace.platform import raise_open_file_limit
from headrace.serve.app import ModelServer
from headrace.serve.completions import ServedModel
from headrace.serve.connection import limited_protocol
from headrace.serve.options import BACKLOG, ServeOptions, ServerInfo
from headrace.serve.redaction import Redactor
from headrace.storage import Progress

CLOSE_S = 5
"""After the drain, for connections that do not close by themselves."""
OTHER_FILES = 256
"""File descriptors besides those of connections."""


def run_server(
    model: str | os.PathLike[str],
    options: ServeOptions,
    *,
    listener: socket.socket,
    state: Path,
    listening: Callable[[str], None],
    progress: Progress,
    ready: Callable[[ServerInfo], None],
) -> None:
    """Serve a model, and load it meanwhile; after a signal, finish the running requests and return.

    Raises:
        ConfigError: the model cannot be loaded.
        SinkError: another server uses the state directory.
        WorkerError: the engine failed while serving.
    """
    raise_open_file_limit(options.max_connections + OTHER_FILES)
    directories = {"state": state, "model": model, **options.stores}
    if options.prefix_cache.directory is not None:
        directories["prefix-cache"] = options.prefix_cache.directory
    redact = Redactor(directories)

    def load(report: Progress) -> ServedModel:
        def both(done: int, total: int | None, note: str) -> None:
            report(done, total, note)
            progress(done, total, note)

        return ServedModel(
            model,
            name=name,
            dtype=options.dtype,
            device=options.device,
            batch_size=options.batch_size,
            prefix_cache=options.prefix_cache,
            progress=both,
        )

    name = options.name or model_name(model)
    server = ModelServer(name, load, state=state, options=options, redact=redact)
    url = _url(listener)
    running = _AnnouncingServer(_uvicorn_config(server, options), lambda: listening(url))
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        running.should_exit = True

    server.on_start = lambda: _handle_signals(server, running, drain_s=options.drain_s)
    server.on_loaded = lambda served: ready(_info(served, url, state=state, options=options))
    server.on_failure = on_failure
    running.run(sockets=[listener])
    server.close()
    if not failures:
        return
    if server.loader.model is None and isinstance(failures[0], HeadraceError):
        raise failures[0]
    part = "engine failed" if server.loader.model is not None else "model could not be loaded"
    raise WorkerError(f"serve: the {part}: {failures[0]}") from failures[0]


def _uvicorn_config(server: ModelServer, options: ServeOptions) -> uvicorn.Config:
    return uvicorn.Config(
        server.app,
        http=limited_protocol(max_connections=options.max_connections),
        log_level="error",
        access_log=False,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSE_S,
        server_header=False,
        ws="none",
    )


def _url(listener: socket.socket) -> str:
    address = listener.getsockname()
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"


def _info(model: ServedModel, url: str, *, state: Path, options: ServeOptions) -> ServerInfo:
    return ServerInfo(
        url=url,
        model=model.name,
        pid=os.getpid(),
        dtype=model.dtype,
        context=model.context,
        chat=model.has_chat_template,
        state=str(state),
        predictions=sorted(options.stores),
    )


class _AnnouncingServer(uvicorn.Server):
    """Calls a function when it accepts requests."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


def _handle_signals(server: ModelServer, running: uvicorn.Server, *, drain_s: float) -> None:
    """The first signal drains, the second ends at once."""
    loop, config = asyncio.get_running_loop(), running.config
    drains: list[asyncio.Task[None]] = []

    async def drain() -> None:
        await server.drain(limit_s=drain_s)
        running.should_exit = True

    def on_signal() -> None:
        if not drains:
            drains.append(loop.create_task(drain()))
        else:
            config.timeout_graceful_shutdown = 0
            running.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
