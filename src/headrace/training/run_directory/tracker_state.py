"""A line of metrics, run.json -> what trackers show; and trackers.json, what they write for the next start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

TRACKERS: Final = "trackers.json"
"""Which runs of wandb and MLflow are of this run, and what they have."""
_NOT_CURVES: Final = {"step", "elapsed_s", "position", "tokens"}


def curves(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line that are drawn over steps.

    >>> curves({"step": 3, "loss": 2.5, "skipped": "loss is nan", "mfu": None})
    {'loss': 2.5}
    """
    return {
        name: float(value)
        for name, value in line.items()
        if name not in _NOT_CURVES and isinstance(value, int | float)
    }


def parameters(run: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a run as one level of names: `optimizer.lr`."""
    return dict(_flat(run.get("recipe") or {}, ""))


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value


def read_state(out: Path, name: str) -> dict[str, Any]:
    """What a tracker wrote for the next start; empty at the first."""
    with suppress(FileNotFoundError, orjson.JSONDecodeError):
        return dict(orjson.loads((out / TRACKERS).read_bytes()).get(name) or {})
    return {}


def write_state(out: Path, name: str, state: Mapping[str, Any]) -> None:
    """Replace what a tracker wrote for the next start."""
    path, content = out / TRACKERS, {}
    with suppress(FileNotFoundError, orjson.JSONDecodeError):
        content = orjson.loads(path.read_bytes())
    temporary = path.with_name(f".{TRACKERS}.tmp")
    # Whole at any time; not waited for, since it is written every step and a power cut costs a repeated step only.
    temporary.write_bytes(orjson.dumps({**content, name: dict(state)}))
    temporary.replace(path)
