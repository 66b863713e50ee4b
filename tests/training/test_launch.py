"""`headrace train` under torchrun, as a user starts it: one log, one message, nothing begun after an error."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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


def command_of(layout: str, store: Path, out: Path) -> list[str]:
    words = [
        "--seq-len",
        32,
        "--batch-size",
        4,
        "--steps",
        120,
        "--lr",
        1e-3,
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    words += [layout, 2, "--checkpoint-every", 10]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--max-restarts", 3]
    return [str(word) for word in [*launcher, "-m", "headrace", "train", store, "--out", out, *words]]


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    outs: dict[str, Path] = {}

    def of(layout: str) -> Path:
        if layout not in outs:
            out = tmp_path_factory.mktemp("undisturbed") / "run"
            subprocess.run(
                command_of(layout, store, out),
                check=True,
                capture_output=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            outs[layout] = out
        return outs[layout]

    return of


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def wait_until(process: subprocess.Popen[bytes], is_reached: Callable[[], bool]) -> None:
    while process.poll() is None and not is_reached():
        threading.Event().wait(0.01)


def ranks_of(process: subprocess.Popen[bytes], *, after: set[int]) -> set[int]:
    """Process ids of both ranks of torchrun's next attempt; empty when it has ended."""
    ranks: set[int] = set()

    def are_there() -> bool:
        nonlocal ranks
        ranks = {child.pid for child in psutil.Process(process.pid).children()} - after
        return len(ranks) == 2

    wait_until(process, are_there)
    return ranks


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", ["--dp", "--tp"])
@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_torchrun_restarts_after_kills_has_the_losses_of_an_undisturbed_one(
    seed: int, layout: str, store: Path, tmp_path: Path, losses: Any, undisturbed: Callable[[str], Path]
) -> None:
    """Three kills of one rank or both, while they start, train or save: torchrun has as many restarts, and no more."""
    rng, out, log = random.Random(f"{seed} {layout}"), tmp_path / "run", tmp_path / "log"
    metrics = out / "metrics.jsonl"

    def has_done(steps: int) -> bool:
        return metrics.exists() and metrics.read_bytes().count(b"\n") >= steps

    ranks, kills = set[int](), 0
    with started(command_of(layout, store, out), log) as process:
        for _ in range(3):
            ranks = ranks_of(process, after=ranks)
            if rng.random() < 0.3:  # while it starts
                threading.Event().wait(rng.uniform(0.0, 5.0))
            else:
                wait_until(process, functools.partial(has_done, rng.randint(1, 110)))
                threading.Event().wait(rng.uniform(0.0, 0.1))
            for pid in rng.sample(sorted(ranks), k=min(len(ranks), rng.choice([1, 2]))):
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        code = process.wait()
    assert code == 0, log.read_text()
    assert kills > 0
    assert "Traceback" not in log.read_text()
    assert losses(out) == losses(undisturbed(layout))
