"""Where a run is, without a terminal: RUN/train.log, and lines on stderr before the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from flat_options import train

from headrace.model import GPTConfig
from headrace.training.run_directory.run_log import RunLog, StepLines

SHAPE = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
)
OPTIONS = {"seq_len": 16, "batch_size": 4, "lr": 1e-3, "dtype": "float32", "device": "cpu"}


def test_a_run_writes_where_it_is(store, tmp_path):
    train(store, out=tmp_path / "run", model=SHAPE, steps=3, **OPTIONS)
    train(store, out=tmp_path / "run", model=SHAPE, steps=3, **OPTIONS)
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    events = [line.split(" INFO ")[1].split(":")[0] for line in lines]
    assert events == ["begins at step 0 of 3", "step 1 of 3", "step 3 of 3", "step 3 of 3"]
    assert "loss " in lines[1]
    assert "left" in lines[1]
    assert lines[-1].endswith("all steps are done; checkpoint committed")


def test_an_error_and_a_warning_are_in_the_log(store, tmp_path):
    with RunLog() as log:
        log.open(tmp_path / "train.log")
        with pytest.warns(RuntimeWarning, match="passed over"):
            log.add_warning("step-8 is passed over")
    log = RunLog()
    log.open(tmp_path / "train.log")
    log.__exit__(ValueError, ValueError("boom"), None)
    text = (tmp_path / "train.log").read_text()
    assert "WARNING step-8 is passed over" in text
    assert "ERROR ValueError: boom" in text


def test_lines_come_with_time_and_not_with_every_step(tmp_path):
    now = [0.0]
    metrics = {
        "loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 1.0, "data_wait_s": 0.0, "checkpoint_s": 0.0,
        "step_s": 1.0,
    }  # fmt: skip
    with RunLog() as log:
        log.open(tmp_path / "train.log")
        lines = StepLines(log, first=1, total=100, clock=lambda: now[0])
        for step in range(1, 101):
            now[0] += 1.0
            lines.add({**metrics, "step": step})
    steps = [
        line.split("step ")[1].split(" ")[0] for line in (tmp_path / "train.log").read_text().splitlines()
    ]
    assert steps[0] == "1"
    assert steps[-1] == "100"
    assert 9 <= len(steps) <= 13


def test_the_command_line_logs_before_the_end_and_tells_a_scheduler_that_steps_are_left(store, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable, "-m", "headrace", "train", store, "--out", tmp_path / "run", "--steps", "1000000",
            "--seq-len", "16", "--batch-size", "2", "--device", "cpu", "--dtype", "float32",
        ],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with process:
        for line in process.stderr:
            if "step 1 of 1,000,000: loss" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; checkpoint committed" in rest
    assert "Traceback" not in rest
