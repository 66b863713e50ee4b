"""A run directory -> an empty one: what `--restart` deletes, and when it does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

import orjson

from headrace.errors import ConfigError
from headrace.training.run_directory.metrics import METRICS, SAMPLES
from headrace.training.run_directory.run_json import RUN
from headrace.training.run_directory.tracker_state import TRACKERS

# run.json comes last: a directory that is deleted halfway is refused by a start without restart.
_OWNED = (
    "checkpoints",
    "base",
    "tensorboard",
    "wandb",
    TRACKERS,
    "plots",
    "report.html",
    "train.log",
    SAMPLES,
    METRICS,
    "tokenizer",
    RUN,
)


def is_run_file(name: str) -> bool:
    """Whether a name, relative to a run, is of the run or below one of its directories.

    >>> is_run_file("run.json"), is_run_file("checkpoints/best.json"), is_run_file("notes.txt")
    (True, True, False)
    """
    return name.partition("/")[0] in _OWNED


def is_first_attempt(environment: Mapping[str, str] = os.environ) -> bool:
    """Was this process started by the user, not again by torchrun or Slurm after a failure?

    >>> is_first_attempt({}), is_first_attempt({"TORCHELASTIC_RESTART_COUNT": "1"})
    (True, False)
    """
    counts = (environment.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return all(count in ("", "0") for count in counts)


def delete_run(out: Path, init_from: str | PathLike[str] | None) -> None:
    """Delete the files of a run; others that are in its directory stay.

    Args:
        out: the run directory.
        init_from: what the new run begins with.

    Raises:
        ConfigError: the directory holds no run, or weights that the new run would lack.
    """
    held = [name for name in _OWNED if (out / name).exists()]
    run = (out / RUN).read_bytes() if RUN in held else b""
    if not check_deletable(out, held, run, init_from):
        return
    for name in held:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_deletable(
    out: Path | str, held: Sequence[str], run: bytes, init_from: str | PathLike[str] | None
) -> bool:
    """Whether there is a run to delete.

    Args:
        out: path or URL of the run.
        held: names of files and directories in it.
        run: its run.json; empty where there is none.
        init_from: what the new run begins with.

    Raises:
        ConfigError: see `delete_run`.
    """
    if not held:
        return False
    if not {RUN, METRICS} & set(held):
        raise ConfigError(
            f"{out}: holds {', '.join(held)} and neither {RUN} nor {METRICS}, so it is not a run, and restart deletes "
            "nothing. Give another directory with --out."
        )
    source = _imported_from(run)
    if source is not None and init_from is None:
        raise ConfigError(
            f"{out}: began with the weights of {source}, which restart would delete. "
            "Name the weights that the new run begins with: --init-from."
        )
    source_run = None if init_from is None else fspath(init_from).rpartition("@")[0] or fspath(init_from)
    if source_run is not None and _is_same(source_run, out):
        raise ConfigError(f"{out}: restart would delete the run that --init-from names. Give another --out.")
    return True


def _is_same(run: str, out: Path | str) -> bool:
    if isinstance(out, Path):
        return Path(run).resolve() == out.resolve()
    return run.rstrip("/") == out


def _imported_from(run: bytes) -> str | None:
    """What the weights that a run began with were imported from; a damaged run.json is one reason to start over."""
    try:
        return str(orjson.loads(run)["imported"]["from"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
