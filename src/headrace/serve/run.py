"""Options -> a server that runs until it is told to stop, and then finishes what it has begun."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from headrace.errors import ConfigError, WorkerError
from headrace.serve.app import MAX_BODY_BYTES, Server
from headrace.serve.served import Served
from headrace.sink import JOB

BACKLOG = 2048
CLOSE_S = 5
"""After the drain, for connections that do not close by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A server that answers."""

    url: str
    model: str
    pid: int
    dtype: str
    context: int
    chat: bool
    """Whether the model has a chat template."""
    state: str
    """Where its files and batches are."""
    predictions: list[str] = field(default_factory=list)


def serve(
    model: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    api_keys: Sequence[str] = (),
    max_queue: int = 1024,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str = "auto",
    state: str | os.PathLike[str] | None = None,
    predictions: Mapping[str, str] | None = None,
    allow_origins: Sequence[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    drain_s: float = 30.0,
    ready: Callable[[Ready], None] = lambda _: None,
    warn: Callable[[str], None] = lambda sentence: warnings.warn(sentence, RuntimeWarning, stacklevel=4),
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; then finish what runs, and return.

    Args:
        model: a run directory, or a Hugging Face directory.
        host: address to bind; the default is reached from this machine only.
        port: 0 takes a free one.
        name: what clients call the model; default the directory's name.
        api_keys: any of them opens the door; none: it stands open.
        max_queue: samples that may wait for a place; more are refused with 429.
        batch_size: samples that decode at once.
        dtype: "float32", "bfloat16" or "auto".
        device: "cpu", "cuda" or "auto".
        state: directory of files and batches; default one for each model under ~/.local/state/headrace.
        predictions: name -> directory or URL of predictions to be shown, also of a job that is still to begin.
        allow_origins: origins whose pages may call this server.
        max_body_bytes: of a JSON body.
        drain_s: seconds that running requests have after a signal.
        ready: called once the server answers.
        warn: called with one sentence per directory of predictions that holds none yet.

    Raises:
        ConfigError: an option makes no sense, or the port is taken.
        SinkError: another server uses the state directory.
        WorkerError: the engine failed while serving.
    """
    for option, value, least in (
        ("max_queue", max_queue, 0),
        ("batch_size", batch_size, 1),
        ("drain_s", drain_s, 0),
    ):
        if value < least:
            raise ConfigError(f"serve: {option} is {value}; it must be at least {least}.")
    if not 0 <= port <= 65535:
        raise ConfigError(f"serve: port is {port}; it must be 0 (a free one) to 65535.")
    if not (Path(model)).exists():
        raise ConfigError(f"serve: {model}: no such directory. Give a run or a Hugging Face directory.")
    for out in (predictions or {}).values():
        _check_predictions(out, warn)
    with _listen(host, port) as listener:
        served = Served(model, name=name, dtype=dtype, device=device, batch_size=batch_size)
        where = Path(state) if state is not None else default_state(Path(model))
        server = Server(
            served,
            state=where,
            api_keys=api_keys,
            max_queue=max_queue,
            max_body_bytes=max_body_bytes,
            predictions=predictions,
            allow_origins=allow_origins,
        )
        config = uvicorn.Config(
            server.app,
            log_level="error",
            access_log=False,
            lifespan="on",
            backlog=BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=CLOSE_S,
            server_header=False,
            ws="none",
        )
        at = listener.getsockname()
        shown = f"[{at[0]}]" if listener.family == socket.AF_INET6 else at[0]
        about = Ready(
            url=f"http://{shown}:{at[1]}",
            model=served.name,
            pid=os.getpid(),
            dtype=served.dtype,
            context=served.context,
            chat=served.chat,
            state=str(where),
            predictions=sorted(predictions or {}),
        )
        running = _Announced(config, lambda: ready(about))
        failures: list[BaseException] = []

        def fail(error: BaseException) -> None:
            failures.append(error)
            running.should_exit = True

        server.on_start = lambda: _on_signals(server, running, drain_s=drain_s)
        server.on_failure = fail
        running.run(sockets=[listener])
        server.close()
        if failures:
            raise WorkerError(f"serve: the engine failed: {failures[0]}") from failures[0]


def _check_predictions(out: str, warn: Callable[[str], None]) -> None:
    """Refuse what no job can fill, say what none has filled yet; a bucket is asked when somebody looks."""
    path = Path(out)
    if "://" in out or (path / JOB).is_file():
        return
    if path.exists() and not path.is_dir():
        raise ConfigError(
            f"serve: predictions {out}: a file. Give the directory that headrace generate wrote (--out)."
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(
            f"serve: predictions {out}: no such directory, nor the one above it. Give the --out of headrace generate."
        )
    warn(f"serve: predictions {out}: none there yet. They are shown as soon as a job writes there.")


class _Announced(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


def _on_signals(server: Server, running: uvicorn.Server, *, drain_s: float) -> None:
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


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, before the model is loaded: a port that is taken is said at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"serve: host {host!r}: {error.strerror}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"serve: {host}:{port}: {error.strerror}. Give another --port, or 0 for a free one."
        ) from error
    return listener


def default_state(model: Path) -> Path:
    """Where a model's files and batches are kept: two models never share, one model finds its own again."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    digest = hashlib.blake2b(os.fsencode(model.resolve()), digest_size=8).hexdigest()
    return Path(base) / "headrace" / "serve" / digest
