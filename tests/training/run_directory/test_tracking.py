"""TensorBoard, wandb and MLflow have every step once: after a kill, a late start, a failure.

By the real packages, offline.

Covers tracker_state.py, tensorboard_tracker.py, wandb_tracker.py and mlflow_tracker.py.
"""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from flat_options import train

from headrace.errors import ConfigError
from headrace.model import GPTConfig
from headrace.training.run_directory.tracker_state import curves
from headrace.training.run_directory.tracking import TrackerLog, check_trackers

TINY = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=1, vocab_size=257, max_position_embeddings=16
)
OPTIONS: dict[str, Any] = {
    "model": TINY, "seq_len": 16, "batch_size": 2, "steps": 6, "lr": 1e-2, "device": "cpu", "keep_checkpoints": 9,
}  # fmt: skip
Curve = Callable[[Path, str], list[tuple[int, float]]]


def tensorboard_curve(out: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload().Scalars(name)
    return [(event.step, event.value) for event in events]


def wandb_curve(out: Path, name: str) -> list[tuple[int, float]]:
    """Of all offline files of the run's directory; they are logs of protobuf records in LevelDB's format."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process writes until it ends
    found = []
    for path in sorted((out / "wandb").glob("offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:
                at += left
                continue
            size, kind = struct.unpack_from("<HB", data, at + 4)
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind not in (1, 4):  # whole, or the last part
                continue
            record, whole = wandb_internal_pb2.Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or ".".join(item.nested_key): item.value_json for item in record.history.item
                }
                if name in items:
                    found.append((int(items["_step"]), float(items[name])))
    return found


def mlflow_curve(out: Path, name: str) -> list[tuple[int, float]]:
    import mlflow

    run = orjson.loads((out / "trackers.json").read_bytes())["mlflow"]
    client = mlflow.MlflowClient(run["tracking_uri"])
    assert client.get_run(run["run_id"]).info.status == "FINISHED"
    return [(metric.step, metric.value) for metric in client.get_metric_history(run["run_id"], name)]


def missing(*names: str) -> Any:
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)}: not installed")


CURVES = [
    pytest.param("tensorboard", tensorboard_curve, id="tensorboard"),
    pytest.param("wandb", wandb_curve, id="wandb", marks=missing("wandb")),
    pytest.param("mlflow", mlflow_curve, id="mlflow", marks=missing("mlflow", "sqlalchemy")),
]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(("name", "curve"), CURVES)
def test_every_step_is_there_once_after_a_start_from_an_older_checkpoint(
    store: Path, tmp_path: Path, losses: Any, name: str, curve: Curve
) -> None:
    out = tmp_path / "run"
    train(store, out=out, checkpoint_every=2, track=(name,), **{**OPTIONS, "steps": 5})
    shutil.rmtree(out / "checkpoints" / "step-00000005")
    train(store, out=out, track=(name,), **OPTIONS)
    assert curve(out, "loss") == [(step, pytest.approx(loss, rel=1e-6)) for step, loss, _ in losses(out)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "curve"), CURVES)
def test_a_tracker_that_is_added_later_gets_the_steps_before(
    store: Path, tmp_path: Path, losses: Any, name: str, curve: Curve
) -> None:
    out = tmp_path / "run"
    train(store, out=out, **{**OPTIONS, "steps": 3})
    train(store, out=out, track=(name,), **OPTIONS)
    assert [step for step, _ in curve(out, "loss")] == [1, 2, 3, 4, 5, 6]


class Failing:
    """A tracker whose third step fails."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def last_step(self, step: int) -> int:
        return 0

    def append(self, line: Mapping[str, Any]) -> None:
        if line["step"] == 3:
            raise OSError("no route to host")
        self.steps.append(line["step"])

    def rewind(self, step: int) -> None:
        raise AssertionError("it has failed before")

    def close(self) -> None:
        raise AssertionError("it has failed before")


def test_a_tracker_that_fails_is_one_warning_and_costs_no_step(tmp_path: Path) -> None:
    tracker, warnings = Failing(), []
    with TrackerLog("wandb", tracker, out=tmp_path, step=0, warn=warnings.append) as log:
        for step in range(1, 6):
            log.append({"step": step, "loss": 1.0})
        log.rewind(2)
    assert tracker.steps == [1, 2]
    assert len(warnings) == 1
    assert "wandb failed: OSError: no route to host" in warnings[0]


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(ConfigError, match=r"pip install 'headrace\["):
            check_trackers([name])
    with pytest.raises(ConfigError, match="wandb"):
        train(store, out=tmp_path / "run", track=("wandb",), **OPTIONS)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("track", ["wandb", ("wandb", "comet")])
def test_names_that_are_no_trackers_are_refused(track: Any) -> None:
    from headrace.training import RunOptions

    with pytest.raises(ConfigError, match="track is"):
        RunOptions(track=track)


def test_curves_are_the_numbers_of_a_line() -> None:
    line = {"step": 1, "loss": 2, "elapsed_s": 1.0, "skipped": "loss is nan", "mfu": None, "lr": 0.5}
    assert curves(line) == {"loss": 2.0, "lr": 0.5}


def test_tensorboard_is_written_without_loading_tensorflow(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from headrace.training.run_directory.tensorboard_tracker import TensorBoardTracker

tracker = TensorBoardTracker(Path(sys.argv[1]))
tracker.last_step(0)
tracker.append({"step": 1, "loss": 2.5})
tracker.close()
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
