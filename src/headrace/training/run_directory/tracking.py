"""Lines of metrics -> the trackers that `--track` names, each step once: what they miss comes from metrics.jsonl."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import orjson

from headrace.errors import ConfigError
from headrace.training.run_directory.metrics import METRICS, lines_up_to
from headrace.training.run_directory.run_log import RunLog

_EXTRAS: Final = {"tensorboard": "train", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """Where metrics are shown."""

    def last_step(self, _step: int, /) -> int:
        """The last step that it has, at a start after a step."""

    def append(self, line: Mapping[str, Any]) -> None:
        """One step's numbers; must not wait for a server."""

    def rewind(self, step: int) -> None:
        """Later steps are taken again, with other rows."""

    def close(self) -> None:
        """Hand over what is left."""


class TrackerLog:
    """A tracker beside metrics.jsonl: it gets the steps that it misses first, then each as it is taken.

    A tracker that fails costs no run: a warning, and the next start hands over what is missing.
    """

    def __init__(
        self, name: str, tracker: Tracker, *, out: Path, step: int, warn: Callable[[str], None]
    ) -> None:
        self.name, self._warn = name, warn
        self._tracker: Tracker | None = tracker
        last = tracker.last_step(step)
        for line in lines_up_to(out / METRICS, step).splitlines():
            content = orjson.loads(line)
            if content["step"] > last:
                self.append(content)

    def append(self, line: Mapping[str, Any]) -> None:
        """One step's numbers."""
        self._try(lambda tracker: tracker.append(line))

    def rewind(self, step: int) -> None:
        """Later steps are taken again."""
        self._try(lambda tracker: tracker.rewind(step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._try(lambda tracker: tracker.close())
        self._tracker = None

    def _try(self, work: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            work(self._tracker)
        except Exception as error:  # noqa: BLE001  # of a foreign library and its network, whatever it is
            self._tracker = None
            self._warn(
                f"train: {self.name} failed: {type(error).__name__}: {error}. The run goes on without it; the next "
                "start hands over the missing steps."
            )


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not installed, before any work starts.

    Raises:
        ConfigError: naming what to install.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train: track {name} needs {name}, which is not installed. "
                f"Run: pip install 'headrace[{_EXTRAS[name]}]'"
            )


def open_trackers(
    names: Sequence[str],
    *,
    out: Path,
    step: int,
    run: Mapping[str, Any],
    is_remote: bool,
    log: RunLog,
) -> Iterator[TrackerLog]:
    """Open the named trackers, one after the other; on rank 0.

    Args:
        names: of tensorboard, wandb, mlflow.
        out: run directory.
        step: done by earlier starts.
        run: run.json; its recipe becomes the parameters of a new run.
        is_remote: the run is on an object store, and out is emptied when the command ends.
        log: of the run.

    Raises:
        ConfigError: a tracker cannot be opened.
    """
    for name in dict.fromkeys(names):
        tracker: Tracker
        if name == "tensorboard":
            from headrace.training.run_directory.tensorboard_tracker import TensorBoardTracker

            tracker = TensorBoardTracker(out / "tensorboard")
        elif name == "wandb":
            from headrace.training.run_directory.wandb_tracker import WandbTracker

            tracker = WandbTracker(out, run=run, directory=None if is_remote else out, log=log)
        else:
            from headrace.training.run_directory.mlflow_tracker import MlflowTracker

            tracker = MlflowTracker(out, run=run, log=log)
        yield TrackerLog(name, tracker, out=out, step=step, warn=log.add_warning)
