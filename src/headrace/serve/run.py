"""Model and options -> checked, with a listening socket -> a server that runs until it gets a signal."""

from __future__ import annotations

import hashlib
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

from headrace.errors import ConfigError
from headrace.paths import given_path, is_url, local_path, split_checkpoint_name
from headrace.serve.options import BACKLOG, ServeOptions, ServerInfo
from headrace.storage import Progress


def serve(
    model: str | os.PathLike[str],
    options: ServeOptions | None = None,
    *,
    ready: Callable[[ServerInfo], None] = lambda _: None,
    listening: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
    warn: Callable[[str], None] = lambda sentence: warnings.warn(sentence, RuntimeWarning, stacklevel=4),
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; then finish the running requests, and return.

    The server answers /health, /metrics and the page while the model loads; requests that need the model wait for it.

    Args:
        model: a run directory or a Hugging Face directory, or a URL of one, see `headrace.model.fetch_model`.
        options: of the server.
        ready: called once the model is loaded.
        listening: called with the server's URL once it answers; the model is not loaded yet.
        progress: called as progress(bytes done, bytes in all, note) while the model is read; in a thread.
        warn: called with one sentence for each directory of predictions that holds none yet.

    Raises:
        ConfigError: an option has no meaning, the port is taken, or the model cannot be loaded.
        SinkError: another server uses the state directory.
        WorkerError: the engine failed while serving.
    """
    options = options or ServeOptions()
    if not is_url(model) and not split_checkpoint_name(model)[0].exists():
        raise ConfigError(f"serve: {model}: no such directory. Give a run or a Hugging Face directory.")
    for out in options.stores.values():
        _check_predictions(out, warn)
    state = (
        local_path(options.state, name="serve: state") if options.state is not None else default_state(model)
    )
    with _listen(options.host, options.port) as listener:
        from headrace.serve.process import run_server  # uvicorn, after the cheap checks

        run_server(
            model,
            options,
            listener=listener,
            state=state,
            listening=listening,
            progress=progress,
            ready=ready,
        )


def _check_predictions(out: str, warn: Callable[[str], None]) -> None:
    """Refuse a path that no job can fill, warn of one that is empty yet; a URL is opened when somebody looks."""
    from headrace.sink import JOB  # not for `headrace --help`

    path = Path(given_path(out, name="serve: predictions"))
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


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket at once: a port that is taken is reported, and clients that come too early wait."""
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
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"serve: {host}:{port}: {error.strerror}. Give another --port, or 0 for a free one."
        ) from error
    return listener


def default_state(model: str | os.PathLike[str]) -> Path:
    """Where a model's files and batches are kept: every model has its own directory, and finds it again.

    Raises:
        ConfigError: the user has no home directory, as in a container with a user id of its own.
    """
    base = os.environ.get("XDG_STATE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError as error:
            raise ConfigError(
                f"serve: user id {os.getuid()} has no home directory to keep files and batches in. Give --state DIR, "
                "or set HOME."
            ) from error
    digest = hashlib.blake2b(
        os.fsencode(model if is_url(model) else Path(given_path(model, name="model")).resolve()),
        digest_size=8,
    ).hexdigest()
    return Path(base) / "headrace" / "serve" / digest
