"""Small real stores, a small shape, and a run in a process of its own that can be killed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from headrace.store import commit_store, write_shard
from headrace.tokens.byte import ByteTokenizer


def make_store(path: Path, *, documents: int = 60, seed: int = 0) -> Path:
    """Byte-level store of sentences over a few words: something to learn."""
    rng = np.random.default_rng(seed)
    words = ["the", "water", "turns", "a", "wheel", "and", "falls", "again", "under", "stone"]
    texts = [" ".join(rng.choice(words, int(rng.integers(8, 60)))).encode() for _ in range(documents)]
    tokenizer = ByteTokenizer()
    tokens = np.concatenate([[*text, tokenizer.eos_id] for text in texts]).astype(np.uint16)
    ends = np.cumsum([len(text) + 1 for text in texts])
    entry = write_shard(path, "s0", tokens, ends, block_tokens=1024)
    commit_store(path, [entry], tokenizer=tokenizer)
    return path


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]


@pytest.fixture
def read_metrics() -> Callable[[Path], list[dict[str, Any]]]:
    return metrics_of


@pytest.fixture
def losses() -> Callable[[Path], list[tuple[int, float, float]]]:
    """What must not change: step, loss and gradient norm of every line."""

    def of(out: Path) -> list[tuple[int, float, float]]:
        return [(line["step"], line["loss"], line["grad_norm"]) for line in metrics_of(out)]

    return of


@pytest.fixture
def new_store() -> Callable[..., Path]:
    return make_store


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    """The last digit of a sum depends on how many threads share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "a")


@pytest.fixture(scope="session")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "b", seed=1)


SERVER = """
import json, os, sys, traceback
import torch
from headrace.model import GPTConfig
from headrace.train import train

# One run at a time; a fork costs milliseconds where an import of torch costs seconds.
for request in sys.stdin:
    asked = json.loads(request)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(asked.pop("said"), os.O_WRONLY), 1)
        try:
            torch.set_num_threads(1)
            asked["model"] = GPTConfig(**asked["model"])
            told = lambda done, total, note: print(done, flush=True)
            summary = train(asked.pop("stores"), progress=told, **asked)
            print("end", summary.steps, summary.stopped_by, flush=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(9)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Run:
    """train() in a process of its own."""

    def __init__(self, server: subprocess.Popen[str], said: Path, asked: dict[str, Any]) -> None:
        os.mkfifo(said)
        assert server.stdin is not None
        server.stdin.write(orjson.dumps({**asked, "said": said}, default=str).decode() + "\n")
        server.stdin.flush()
        assert server.stdout is not None
        self._answers = server.stdout
        self.pid = int(self._answers.readline())
        self._said = said.open()
        self.lines: list[str] = []

    def wait_for_step(self, step: int) -> None:
        for line in self._said:
            self.lines.append(line.strip())
            if line.startswith("end") or int(line) >= step:
                return
        raise AssertionError(f"the run ended with {self.wait()} before step {step}")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Exit code; minus the signal's number when one killed it."""
        self.lines += [line.strip() for line in self._said]
        self._said.close()
        return int(self._answers.readline())


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def start_run(server: subprocess.Popen[str], tmp_path: Path) -> Callable[..., Run]:
    numbers = itertools.count()

    def start(**asked: Any) -> Run:
        return Run(server, tmp_path / f"said-{next(numbers)}", asked)

    return start
