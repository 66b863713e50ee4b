"""A run directory -> one frozen value: its options, its steps, and the measurements beside them.

    RUN/run.json           options and shapes (written by train)
    RUN/metrics.jsonl      one line per step (written by train)
    RUN/samples.jsonl      one line per sampled step and prompt (written by train)            optional
    RUN/tokenizer/         the store's tokenizer (written by train)
    RUN/ingest.json        documents, tokens, bytes and seconds of the ingest                 optional
    RUN/naive.json         the naive loader measured on the same text (demo/comparison.py)    optional
    RUN/predictions.json   figures of generate, and a few samples                             optional
    RUN/about.json         title, command, machine, start time                                optional

A run that was killed leaves a torn last line, which is left out, and steps that were done again after the last
checkpoint, of which the last line counts. A damaged line before it is left out with a warning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final

import orjson

from headrace.errors import ConfigError
from headrace.paths import local_path

Json = Mapping[str, Any]
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One line of metrics.jsonl; a value that the line does not hold is None or zero."""

    step: int
    loss: float | None = None
    """Mean cross-entropy of the step's tokens, nats."""
    eval_loss: float | None = None
    """The same on held-out tokens, where it was evaluated."""
    eval_bits_per_byte: float | None = None
    """That in bits per byte of held-out text."""
    tokens: int = 0
    """Tokens trained on so far, this step's included."""
    step_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0
    checkpoint_s: float = 0.0
    eval_s: float = 0.0
    """Evaluation and samples."""
    other_s: float = 0.0
    """Seconds of the step that none of the parts above took."""
    reading_s: float = 0.0
    """Work of the loader's threads, beside compute."""
    decoding_s: float = 0.0
    lr: float | None = None
    grad_norm: float | None = None
    """Norm of the gradient before clipping."""
    tokens_per_s: float | None = None
    mfu: float | None = None
    """Share of the devices' peak; None where the hardware is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Everything that a report shows."""

    path: Path
    run: Json
    steps: tuple[StepMetrics, ...]
    """Sorted by step; no step twice."""
    ingest: Json = field(default_factory=dict)
    naive: Json = field(default_factory=dict)
    predictions: Json = field(default_factory=dict)
    about: Json = field(default_factory=dict)
    samples: tuple[Json, ...] = ()
    """What a run wrote after its prompts while it trained, by step."""


FILES: Final = (
    "run.json", "metrics.jsonl", "samples.jsonl", "ingest.json", "naive.json", "predictions.json", "about.json",
)  # fmt: skip
"""What is read of a run directory."""


def read_run_files(run_dir: str | PathLike[str]) -> RunFiles:
    """Read the files of a run directory.

    Raises:
        ConfigError: not a run directory, or one of its files is not JSON.
    """
    path = local_path(
        run_dir,
        name="report: run",
        cure="Copy the run to a local directory, or give an s3://, gs:// or az:// URL.",
    )
    if not path.is_dir():
        raise ConfigError(f"{path}: no such directory. A run is what `headrace train --out {path}` writes.")
    if not (path / "run.json").is_file() and not (path / "metrics.jsonl").is_file():
        raise ConfigError(
            f"{path}: holds neither run.json nor metrics.jsonl, so it is not a run. "
            "Give a directory that `headrace train --out` wrote."
        )
    return RunFiles(
        path=path,
        run=_object(path / "run.json"),
        steps=_steps(path / "metrics.jsonl"),
        ingest=_object(path / "ingest.json"),
        naive=_object(path / "naive.json"),
        predictions=_object(path / "predictions.json"),
        about=_object(path / "about.json"),
        samples=tuple(_sample_lines(path / "samples.jsonl")),
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
        raise ConfigError(f"{path}: got a JSON {type(value).__name__}, expected an object.")
    return value


def _steps(path: Path) -> tuple[StepMetrics, ...]:
    damaged: list[str] = []
    by_step = {step.step: step for step in _lines(path, damaged)}
    if damaged:
        named = "; ".join(damaged[:_MAX_NAMED]) + ("; ..." if len(damaged) > _MAX_NAMED else "")
        if not by_step:
            raise ConfigError(f"{path}: none of its lines is a step of a run: {named}.")
        warnings.warn(
            f"{path}: {len(damaged):,} damaged lines are left out, and so are their steps: {named}.",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuple(by_step[number] for number in sorted(by_step))


def _sample_lines(path: Path) -> Iterator[Json]:
    """Samples of whole lines; a kill may have cut the last one."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, start=1):
        try:
            row = orjson.loads(line)
            yield {**row, "step": int(row["step"])}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            if number < len(lines):
                warnings.warn(f"{path}: line {number} is damaged ({error}).", RuntimeWarning, stacklevel=2)


def _lines(path: Path, damaged: list[str]) -> Iterator[StepMetrics]:
    """Steps of whole lines; the others are named in `damaged`."""
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
                return  # a kill cut it
            damaged.append(f"line {number} ({error})")


def _step(row: Json) -> StepMetrics:
    parts = sum(
        _seconds(row, name) for name in ("data_wait_s", "compute_s", "checkpoint_s", "eval_s", "sample_s")
    )
    return StepMetrics(
        step=int(row["step"]),
        loss=_finite(row.get("loss")),
        eval_loss=_finite(row.get("eval_loss")),
        eval_bits_per_byte=_finite(row.get("eval_bits_per_byte")),
        tokens=int(row.get("tokens") or 0),
        step_s=_seconds(row, "step_s"),
        data_wait_s=_seconds(row, "data_wait_s"),
        compute_s=_seconds(row, "compute_s"),
        checkpoint_s=_seconds(row, "checkpoint_s"),
        eval_s=_seconds(row, "eval_s") + _seconds(row, "sample_s"),
        other_s=max(0.0, _seconds(row, "step_s") - parts),
        reading_s=_seconds(row, "reading_s"),
        decoding_s=_seconds(row, "decoding_s"),
        lr=_finite(row.get("lr")),
        grad_norm=_finite(row.get("grad_norm")),
        tokens_per_s=_finite(row.get("tokens_per_s")),
        mfu=_finite(row.get("mfu")),
    )


def _finite(value: object) -> float | None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _seconds(row: Json, name: str) -> float:
    return max(0.0, _finite(row.get(name)) or 0.0)
