"""A demo's options and its finished steps -> demo.json, replaced atomically at each change."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError
from headrace.platform import lock_file, open_directory

NAME = "demo.json"
FORMAT = 1


class DemoState:
    """demo.json of one output directory; a step is recorded when all of its output is on disk."""

    def __init__(self, out: Path, state: dict[str, Any]) -> None:
        self._out = out
        self._state = state

    @property
    def started(self) -> str:
        """When the demo was first started: "2025-06-01 12:00 UTC"."""
        return str(self._state["started"])

    def result(self, step: str) -> dict[str, Any] | None:
        """The result of a finished step; None while it is not finished."""
        result: dict[str, Any] | None = self._state["done"].get(step)
        return result

    def record(self, step: str, result: Mapping[str, Any]) -> None:
        """Record that a step is finished."""
        self._state["done"][step] = dict(result)
        self._write()

    def _write(self) -> None:
        write_json(self._out / NAME, self._state)


def open_state(out: Path, options: Mapping[str, Any], *, owned: Sequence[str], restart: bool) -> DemoState:
    """Open the state of a directory, or begin a new one.

    Args:
        out: the demo's directory, which exists.
        options: everything that the demo's result depends on.
        owned: names in `out` that a demo writes; `restart` deletes these and nothing else.
        restart: start over. A demo that has not finished a step is replaced without it.

    Raises:
        ConfigError: the directory holds other files, or a demo with other options.
    """
    options = orjson.loads(orjson.dumps(options))
    path = out / NAME
    state = _read(path)
    if state is None:
        foreign = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(NAME))
        if foreign:
            raise ConfigError(
                f"{out}: holds {', '.join(foreign[:3])} and no {NAME}, so it is not a demo's directory. "
                "Give an empty or a new one with --out."
            )
    elif not restart and state["done"] and state["options"] != options:
        raise ConfigError(
            f"{out}: holds a demo with other options: {_difference(state['options'], options)}. "
            "Start over with --restart, or give another directory with --out."
        )
    if state is None or restart or state["options"] != options:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        state = {"format": FORMAT, "started": now, "options": options, "cleared": False, "done": {}}
        write_json(path, state)
    if not state["cleared"]:
        # The state is written first: after a kill in the middle the next call deletes the rest of the old files.
        for name in owned:
            _remove(out / name)
        state["cleared"] = True
        write_json(path, state)
    return DemoState(out, state)


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Lock a directory while the block runs.

    The lock is on the directory itself and ends with the process, so no lock file can be left behind.

    Raises:
        ConfigError: another demo runs in it.
    """
    handle = open_directory(out)
    try:
        if handle is not None and not lock_file(handle, wait=False):
            raise ConfigError(f"{out}: another demo is running in it. Wait for it, or give another --out.")
        yield
    finally:
        if handle is not None:
            os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole and synced, or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        state = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not JSON ({error}). Delete it and its directory, and start over."
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: not the state of a demo of this version. Give another directory with --out."
        )
    return state


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} was {_short(was.get(name))}, now {_short(now.get(name))}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    )


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
