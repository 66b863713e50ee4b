"""What a demo was asked for, and which of its steps are done -> demo.json, replaced in one step each time."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError

NAME = "demo.json"
FORMAT = 1


class Journal:
    """demo.json of one output directory; a step is in it when all of its output is on disk."""

    def __init__(self, out: Path, state: dict[str, Any]) -> None:
        self._out = out
        self._state = state

    @property
    def started(self) -> str:
        """When the demo was first started: "2025-06-01 12:00 UTC"."""
        return str(self._state["started"])

    def done(self, step: str) -> dict[str, Any] | None:
        """What a finished step found; None while it is not finished."""
        found: dict[str, Any] | None = self._state["done"].get(step)
        return found

    def record(self, step: str, found: Mapping[str, Any]) -> None:
        """Write down that a step is finished."""
        self._state["done"][step] = dict(found)
        self._write()

    def _write(self) -> None:
        write_json(self._out / NAME, self._state)


def open_journal(out: Path, asked: Mapping[str, Any], *, owned: Sequence[str], fresh: bool) -> Journal:
    """The journal of a directory: a new one, or the one to go on with.

    Args:
        out: the demo's directory, which exists.
        asked: everything that the demo's result depends on.
        owned: names in `out` that a demo writes; `fresh` deletes these and nothing else.
        fresh: start over; a demo that has not finished a step needs no asking.

    Raises:
        ConfigError: the directory holds something else, or a demo of something else.
    """
    asked = orjson.loads(orjson.dumps(asked))
    path = out / NAME
    state = _read(path)
    if state is None:
        foreign = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(NAME))
        if foreign:
            raise ConfigError(
                f"{out}: holds {', '.join(foreign[:3])} and no {NAME}, so it is not a demo's directory. "
                "Give an empty or a new one with --out."
            )
    elif not fresh and state["done"] and state["asked"] != asked:
        raise ConfigError(
            f"{out}: holds a demo of something else: {_difference(state['asked'], asked)}. "
            "Start over with --fresh, or give another directory with --out."
        )
    if state is None or fresh or state["asked"] != asked:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        state = {"format": FORMAT, "started": now, "asked": asked, "cleared": False, "done": {}}
        write_json(path, state)
    if not state["cleared"]:
        # Written down first: a kill in the middle must not leave the old demo's files to the new one.
        for name in owned:
            _remove(out / name)
        state["cleared"] = True
        write_json(path, state)
    return Journal(out, state)


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold a directory while the block runs; a second demo in it is refused.

    The lock is on the directory itself and dies with its process: nothing is left to clean.

    Raises:
        ConfigError: another demo runs in it.
    """
    handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{out}: another demo is running in it. Wait for it, or give another --out."
            ) from None
        yield
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """A JSON file, whole and on disk, or not at all."""
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
            f"{path}: not the journal of a demo of this version. Give another directory with --out."
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
