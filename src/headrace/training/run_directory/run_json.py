"""What a run was started with <-> run.json; another request than that is refused by what differs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ResumeError
from headrace.storage import write_file

RUN = "run.json"
FORMAT = 1
_LOCK = threading.Lock()


def read_run(out: Path) -> dict[str, Any] | None:
    """run.json of a run directory, None where there is none.

    Raises:
        ResumeError: there is one that cannot be read.
    """
    path = out / RUN
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        run: Any = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ResumeError(f"{path}: not JSON ({error}). Give another directory with --out.") from error
    if not isinstance(run, dict):
        raise ResumeError(f"{path}: a JSON {type(run).__name__}, expected an object: not a run's.")
    if run.get("format") != FORMAT:
        raise ResumeError(f"{path}: run format {run.get('format')!r}, this headrace reads {FORMAT}.")
    recipe = run.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
        raise ResumeError(
            f"{path}: it has no recipe with a model. Damaged? Give another directory with --out."
        )
    return run


def write_run(out: Path, run: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    write_file(out / RUN, orjson.dumps({"format": FORMAT, **run}, option=orjson.OPT_INDENT_2))


def update_run(out: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite run.json by a function of its content; threads of this process take turns."""
    with _LOCK:
        run = read_run(out)
        if run is not None and (changed := change(run)) != run:
            write_run(out, changed)


def check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what the run was started with to what is requested now.

    Raises:
        ResumeError: every key that differs, with both values.
    """
    old, new = _flat(before), _flat(now)
    differ = [
        f"{key}: run has {old.get(key, 'nothing')!r}, requested {new.get(key, 'nothing')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differ:
        raise ResumeError(
            f"{out}: holds another run: {'; '.join(differ)}. "
            f"Give the same options to continue it, --restart to start over, or another directory with --out."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
