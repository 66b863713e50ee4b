"""`headrace train` under torchrun, as a user starts it: one log, one message, nothing begun after an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OPTIONS = [
    "--seq-len",
    32,
    "--batch-size",
    4,
    "--steps",
    2,
    "--lr",
    1e-3,
    "--dtype",
    "float32",
    "--device",
    "cpu",
]


def torchrun(processes: int, *words: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes, "-m", "headrace"]
    return subprocess.run(
        [str(word) for word in [*command, "train", *words]],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_ranks_train_together_and_one_of_them_speaks(store: Path, tmp_path: Path, losses: Any) -> None:
    done = torchrun(2, store, "--out", tmp_path / "two", "--tp", 2, *OPTIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    lines = done.stderr.splitlines()
    assert all(" INFO headrace.training: " in line for line in lines), done.stderr
    assert [line.partition("training: ")[2].split(":")[0] for line in lines] == [
        "begins at step 0 of 2", "step 1 of 2", "step 2 of 2", "step 2 of 2",
    ]  # fmt: skip
    alone = torchrun(1, store, "--out", tmp_path / "one", *OPTIONS)
    assert alone.returncode == 0, alone.stderr
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


def test_what_cannot_be_is_told_once_and_nothing_is_begun(store: Path, tmp_path: Path) -> None:
    done = torchrun(2, store, "--out", tmp_path / "run", "--dp", 2, *OPTIONS, "--batch-size", 5)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("headrace:")]
    assert told == [
        (
            "headrace: train: dp 2 does not divide the rows of a micro-batch (batch_size / "
            "gradient_accumulation_steps) 5. Change batch_size."
        )
    ]
    assert not (tmp_path / "run").exists()


def test_a_rendezvous_that_nobody_holds_is_told_in_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9", "HEADRACE_RENDEZVOUS_S": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    words = [sys.executable, "-m", "headrace", "train", store, "--out", tmp_path / "run", *OPTIONS]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert (
        "rank 1 of 2: cannot meet the others at 127.0.0.1:9 within 1 s ([Errno 111] Connection refused)"
        in line
    )
