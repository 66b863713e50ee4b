"""A run directory -> one frozen value: what was asked for, its steps, and what was measured beside it.

    RUN/run.json           what was asked for (written by train)
    RUN/metrics.jsonl      one line a step (written by train)
    RUN/ingest.json        what ingest did: documents, tokens, bytes, seconds          optional
    RUN/naive.json         the naive way beside ours, same text (see demo/naive.py)    optional
    RUN/predictions.json   what generate did, and a few samples                        optional
    RUN/about.json         title, command, machine, started                            optional

A run that was killed leaves a torn last line, and steps that were done again after
the last checkpoint: the torn line is left out, and of a step only its last line counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of metrics.jsonl; what a line does not hold is None or zero."""

    step: int
    loss: float | None = None
    """Mean cross-entropy of the step's tokens, nats."""
    eval_loss: float | None = None
    """The same on held-out tokens, where it was evaluated."""
    tokens: int = 0
    """Tokens trained on so far, this step's included."""
    step_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0
    checkpoint_s: float = 0.0
    eval_s: float = 0.0
    other_s: float = 0.0
    """What the parts above leave of the step."""
    reading_s: float = 0.0
    """Work of the loader's threads, beside compute."""
    decoding_s: float = 0.0
    learning_rate: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    """Share of the devices' peak; None where the hardware is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """All that a report shows."""

    path: Path
    run: Json
    steps: tuple[Step, ...]
    """Sorted by step, each step once."""
    ingest: Json = field(default_factory=dict)
    naive: Json = field(default_factory=dict)
    predictions: Json = field(default_factory=dict)
    about: Json = field(default_factory=dict)


def read_run(run_dir: str | PathLike[str]) -> RunFiles:
    """Read what there is in a run directory.

    Raises:
        ConfigError: not a run directory, or one of its files is not JSON.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such directory. A run is what `headrace train --out {path}` writes.")
    if not (path / "run.json").is_file() and not (path / "metrics.jsonl").is_file():
        raise ConfigError(
            f"{path}: holds neither run.json nor metrics.jsonl, so it is not a run. "
            "Give the directory that was `--out` of headrace train."
        )
    return RunFiles(
        path=path,
        run=_object(path / "run.json"),
        steps=_steps(path / "metrics.jsonl"),
        ingest=_object(path / "ingest.json"),
        naive=_object(path / "naive.json"),
        predictions=_object(path / "predictions.json"),
        about=_object(path / "about.json"),
    )


def _object(path: Path) -> Json:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not JSON ({error}). Delete it, or run the step that writes it again."
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: got a JSON {type(value).__name__}, wanted an object.")
    return value


def _steps(path: Path) -> tuple[Step, ...]:
    by_step = {step.step: step for step in _lines(path)}
    return tuple(by_step[number] for number in sorted(by_step))


def _lines(path: Path) -> Iterator[Step]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            yield _step(row)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            if number == len(lines):
                return  # torn by a kill
            raise ConfigError(f"{path}: line {number}: not a step of a run ({error}).") from None


def _step(row: Json) -> Step:
    parts = sum(_seconds(row, name) for name in ("data_wait_s", "compute_s", "checkpoint_s", "eval_s"))
    return Step(
        step=int(row["step"]),
        loss=_finite(row.get("loss")),
        eval_loss=_finite(row.get("eval_loss")),
        tokens=int(row.get("tokens") or 0),
        step_s=_seconds(row, "step_s"),
        data_wait_s=_seconds(row, "data_wait_s"),
        compute_s=_seconds(row, "compute_s"),
        checkpoint_s=_seconds(row, "checkpoint_s"),
        eval_s=_seconds(row, "eval_s"),
        other_s=max(0.0, _seconds(row, "step_s") - parts),
        reading_s=_seconds(row, "reading_s"),
        decoding_s=_seconds(row, "decoding_s"),
        learning_rate=_finite(row.get("lr")),
        tokens_per_s=_finite(row.get("tokens_per_s")),
        mfu=_finite(row.get("mfu")),
    )


def _finite(value: object) -> float | None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _seconds(row: Json, name: str) -> float:
    return max(0.0, _finite(row.get(name)) or 0.0)
