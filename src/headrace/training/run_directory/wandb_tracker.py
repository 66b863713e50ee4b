"""Lines of metrics -> a run of Weights & Biases, by its own package and its own environment variables."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.training.run_directory.run_log import RunLog
from headrace.training.run_directory.tracker_state import curves, parameters, read_state, write_state

_NAME = "wandb"
_PROJECT = "headrace"


class WandbTracker:
    """The same run of wandb at every start, by the id in trackers.json.

    Args:
        out: run directory, which has trackers.json.
        run: run.json.
        directory: where wandb keeps its files; None: where wandb does by itself.
        log: of the run.

    Raises:
        ConfigError: wandb does not begin a run.
    """

    def __init__(self, out: Path, *, run: Mapping[str, Any], directory: Path | None, log: RunLog) -> None:
        import wandb

        state = read_state(out, _NAME)
        self._out, self._log = out, log
        self._id = state.get("id") or secrets.token_hex(8)
        try:
            self._run: Any = wandb.init(
                id=self._id,
                resume="allow",
                name=out.name if directory is not None else None,
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                dir=os.environ.get("WANDB_DIR") or directory,
                config=parameters(run),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:
            raise ConfigError(
                f"train: wandb does not begin a run: {error}. Log in (wandb login), set WANDB_MODE=offline, or leave "
                "--track wandb out."
            ) from error
        # Online the server knows what it has; offline each start writes files of its own, from step 0.
        self._last = max(int(state.get("last_step", 0)), int(self._run.step) - 1)
        self._save()
        where = f"{self._run.dir} (wandb sync sends it)" if self._run.offline else self._run.url
        log.add_event(f"wandb run {self._id}: {where}")

    def last_step(self, _step: int, /) -> int:
        """The last step that was handed over."""
        return self._last

    def append(self, line: Mapping[str, Any]) -> None:
        """One step's numbers; a step that wandb has is left out, since its runs cannot go back."""
        step = int(line["step"])
        if step > self._last:
            self._run.log(curves(line), step=step)
            self._last = step
            self._save()

    def rewind(self, step: int) -> None:
        """Say that wandb keeps what it has."""
        if step < self._last:
            self._log.add_warning(
                f"train: wandb keeps the first numbers of steps {step + 1:,} to {self._last:,}: its runs cannot go "
                "back. metrics.jsonl has those that count."
            )

    def close(self) -> None:
        """Hand over what is left."""
        self._run.finish()

    def _save(self) -> None:
        write_state(self._out, _NAME, {"id": self._id, "last_step": self._last})
