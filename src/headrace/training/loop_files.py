"""Where the loop writes -> what is done around a checkpoint's commit: metrics first, run.json and the mirror after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.model import step_dir
from headrace.training.checkpoints.save_watch import SaveWatch
from headrace.training.options import CheckpointOptions
from headrace.training.remote_run import RemoteRun
from headrace.training.run_directory.metrics import MetricsLog
from headrace.training.run_directory.mirror import Mirror
from headrace.training.run_directory.run_json import update_run
from headrace.training.run_directory.run_log import RunLog
from headrace.training.samples import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFiles:
    """The files that the loop writes, and how often."""

    out: Path
    checkpoint: CheckpointOptions
    track: Sequence[str] = ()
    """Names of trackers, see `open_trackers`."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """run.json, which trackers show."""
    mirror: Mirror | None = None
    remote: RemoteRun | None = None
    """The run on an object store whose working directory `out` is."""
    log: RunLog = field(default_factory=RunLog)
    first_checkpoint: int | None = None
    """Step of the run's first checkpoint; None before there was one."""
    positions: Mapping[int, int] = field(default_factory=dict)
    """See `positions_after`."""
    sampler: Sampler | None = None
    resumed: int | None = None
    """Step of the checkpoint that the loop starts from; None without one."""


class BeforeCommit:
    """What a checkpoint relies on: the lines of its steps are on disk, and on the object store of a remote run."""

    def __init__(self, lines: Sequence[MetricsLog], remote: RemoteRun | None) -> None:
        self._lines, self._remote = lines, remote

    def __call__(self, watch: SaveWatch) -> None:
        """Before a commit, on rank 0."""
        for log in self._lines:
            log.sync()
        if self._remote is not None:
            self._remote.before_commit(watch)


class AfterCommit:
    """What follows a committed checkpoint on rank 0: run.json says that there was one; the mirror gets it."""

    def __init__(self, files: LoopFiles) -> None:
        self._files = files
        self._is_recorded = files.first_checkpoint is not None
        self._best: object = None

    def __call__(self, step: int, state: Mapping[str, object]) -> None:
        """After the commit of a step's checkpoint; the state is that of its state.json."""
        files, best = self._files, state["best"]
        if not self._is_recorded or best != self._best:
            first = {} if self._is_recorded else {"first_checkpoint": step}
            update_run(files.out, lambda run: {**run, **first, "best": best})
            self._is_recorded, self._best = True, best
            if files.remote is not None:
                files.remote.send_last_logs()
        if files.mirror is not None:
            directory = step_dir(files.out / "checkpoints", step)
            files.mirror.send_checkpoint(directory, keep=files.checkpoint.keep_checkpoints)
