"""Lines of metrics -> a run of MLflow, by its own package and its own environment variables."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.training.run_directory.run_log import RunLog
from headrace.training.run_directory.tracker_state import curves, parameters, read_state, write_state

_NAME = "mlflow"
_EXPERIMENT = "headrace"
_MAX_METRICS = 900
"""In one request; MLflow's servers take 1,000."""
_MAX_PARAMETERS = 100
_CLOSE_S = 60.0


class MlflowTracker:
    """The same run of MLflow at every start, by the id in trackers.json; a thread waits for the server.

    Args:
        out: run directory, which has trackers.json.
        run: run.json.
        log: of the run.

    Raises:
        ConfigError: the tracking store cannot be used, or has no such run.
    """

    def __init__(self, out: Path, *, run: Mapping[str, Any], log: RunLog) -> None:
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._log = Metric, log
        state = read_state(out, _NAME)
        uri = mlflow.get_tracking_uri()
        try:
            self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
            if state:
                self._id = str(state["run_id"])
                self._client.update_run(self._id, status="RUNNING")
            else:
                experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
                made = self._client.create_run(self._experiment_id(experiment), run_name=out.name)
                self._id = made.info.run_id
                shown = [Param(name, str(value)[:6000]) for name, value in parameters(run).items()]
                for start in range(0, len(shown), _MAX_PARAMETERS):
                    self._client.log_batch(self._id, params=shown[start : start + _MAX_PARAMETERS])
                write_state(out, _NAME, {"run_id": self._id, "tracking_uri": uri})
            self._last = self._last_steps()
        except Exception as error:
            before = f" The run's own is {state['run_id']} at {state['tracking_uri']}." if state else ""
            raise ConfigError(
                f"train: MLflow at {uri} cannot be used: {error}{before} Set MLFLOW_TRACKING_URI, or leave --track "
                "mlflow out."
            ) from error
        log.add_event(f"mlflow run {self._id} at {uri}")
        self._error: Exception | None = None
        self._lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def last_step(self, _step: int, /) -> int:
        """The last step of which it has every number; a kill may have cut one."""
        return min(self._last.values(), default=0)

    def append(self, line: Mapping[str, Any]) -> None:
        """Hand one step's numbers to the thread."""
        if self._error is not None:
            raise self._error
        self._lines.put(line)

    def rewind(self, step: int) -> None:
        """Say that MLflow keeps what it has."""
        self._log.add_warning(
            f"train: MLflow keeps the first numbers of the steps after {step:,} that are taken again: its runs cannot "
            "go back. metrics.jsonl has those that count."
        )

    def close(self) -> None:
        """Wait until the lines are sent, and end the run there."""
        self._lines.put(None)
        self._thread.join(timeout=_CLOSE_S)
        if self._error is None and self._thread.is_alive():
            raise TimeoutError(f"no answer within {_CLOSE_S:.0f} s")
        if self._error is not None:
            raise self._error

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _last_steps(self) -> dict[str, int]:
        """The last step of each curve."""
        names = self._client.get_run(self._id).data.metrics
        return {
            name: max(metric.step for metric in self._client.get_metric_history(self._id, name))
            for name in names
        }

    def _send_all(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                batch = [line]
                while not self._lines.empty() and len(batch) * len(line) < _MAX_METRICS:
                    following = self._lines.get()
                    if following is None:
                        self._lines.put(None)
                        break
                    batch.append(following)
                self._send(batch)
            self._client.set_terminated(self._id, status="FINISHED")
        except Exception as error:  # noqa: BLE001  # given to the training thread
            self._error = error

    def _send(self, lines: list[Mapping[str, Any]]) -> None:
        now, metrics = int(1000 * time.time()), []
        for line in lines:
            step = int(line["step"])
            for name, value in curves(line).items():
                if step > self._last.get(name, 0):
                    metrics.append(self._metric(name, value, now, step))
                    self._last[name] = step
        for start in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _MAX_METRICS])
