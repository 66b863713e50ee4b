"""RUN@STEP -> the files of another run that goes on from there with weights, moments and position."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError, ResumeError
from headrace.model import (
    MANIFEST,
    PRETRAINED,
    base_checkpoint,
    find_checkpoint,
    hash_file,
    pretrained_files,
    step_dir,
    verify_checkpoint,
)
from headrace.paths import local_path, split_checkpoint_name
from headrace.storage import fsync_directory, make_directory, write_file
from headrace.training.checkpoints.state import SavedState
from headrace.training.run_directory.metrics import STEP_LINES, lines_up_to
from headrace.training.run_directory.run_json import read_run

_STAGING = ".staging-branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A checkpoint of another run, and the run.json that its branch begins with."""

    source: Path
    saved: SavedState
    run: dict[str, Any]

    @property
    def note(self) -> str:
        """The origin in a sentence."""
        origin = self.run["branched_from"]
        return f"a branch of {origin['run']} at step {origin['step']:,}: weights, moments, position and step are kept"

    def write(self, out: Path) -> SavedState:
        """Copy checkpoint, tokenizer, metrics and samples up to its step; run.json is the caller's to write, last."""
        checkpoints = out / "checkpoints"
        final, staging = step_dir(checkpoints, self.saved.step), checkpoints / _STAGING
        make_directory(checkpoints)
        shutil.rmtree(staging, ignore_errors=True)
        _copy_files(self.saved.directory, staging)
        verify_checkpoint(staging)
        shutil.rmtree(final, ignore_errors=True)  # of an earlier try that was killed
        staging.rename(final)
        fsync_directory(checkpoints)
        _copy_files(self.source / "tokenizer", out / "tokenizer")
        if (base := base_checkpoint(self.source)).is_dir():
            _copy_files(base, base_checkpoint(out))
        if (files := pretrained_files(self.source)) is not None:
            _copy_files(files, out / PRETRAINED)
        for name in STEP_LINES:
            if (self.source / name).is_file():
                write_file(out / name, lines_up_to(self.source / name, self.saved.step))
        return SavedState(directory=final, content=self.saved.content)


def open_branch(name: str | PathLike[str], *, warn: Callable[[str], None]) -> Branch:
    """The checkpoint that RUN, RUN@STEP or RUN@best names, verified, and run.json as it was at its step.

    Raises:
        ConfigError: no run there, or a checkpoint of weights only.
        CheckpointError: no such whole checkpoint.
    """
    path, at = split_checkpoint_name(
        local_path(name, name="init_from", cure="Copy it to a local directory first.")
    )
    run = read_run(path)
    if run is None or "data" not in run["recipe"]:
        raise ConfigError(
            f"train: init_state full goes on with the moments and the position of a run, and {path} is "
            f"{'no run' if run is None else 'an import that was not trained'}. Use init_state weights."
        )
    directory, state = find_checkpoint(path, at, warn=warn)
    saved = SavedState(directory=directory, content=state)
    if saved.has_weights_only:
        raise ConfigError(f"train: {directory} holds weights only, no moments. Use init_state weights.")
    segments = [segment for segment in run.get("segments", ()) if segment["first_step"] <= saved.step]
    origin = {"run": fspath(name), "step": saved.step, "checkpoint": hash_file(directory / MANIFEST)}
    return Branch(
        source=path,
        saved=saved,
        run={
            **run,
            "recipe": state["recipe"],
            "segments": segments,
            "first_checkpoint": saved.step,
            "max_seconds": None,
            "divergences": [
                entry
                for entry in run.get("divergences", ())
                if entry.get("after_step", entry["step"]) <= saved.step
            ],
            "best": state["best"],
            "branched_from": origin,
        },
    )


def check_branch(
    out: Path, run: Mapping[str, Any], init_from: str | PathLike[str] | None, init_state: str
) -> None:
    """Compare what a run in `out` went on from to what is requested now.

    Raises:
        ResumeError: out is no branch, or one of another checkpoint.
    """
    origin = run.get("branched_from")
    if init_from is None or (origin is None and init_state == "weights"):
        return
    name = fspath(init_from)
    if origin is None or init_state == "weights":
        what = "no branch" if origin is None else f"a branch of {origin['run']}, with its moments"
        raise ResumeError(
            f"{out}: holds {what}; requested is init_from {name} with init_state {init_state}. "
            f"Leave both out to go on, or give another directory with --out."
        )
    if name != origin["run"]:
        path, at = split_checkpoint_name(name)
        directory, _ = find_checkpoint(path, at)
        if hash_file(directory / MANIFEST) != origin["checkpoint"]:
            raise ResumeError(
                f"{out}: a branch of {origin['run']} (step {origin['step']}), requested is one of {name}. "
                f"Leave init_from out to go on, or give another directory with --out."
            )


def _copy_files(source: Path, target: Path) -> None:
    make_directory(target)
    for path in sorted(source.iterdir()):
        with path.open("rb") as reader, (target / path.name).open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
    fsync_directory(target)
