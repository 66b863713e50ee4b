"""Small real stores, a small shape, and a run in a process of its own that can be killed."""

from __future__ import annotations

import itertools
import os
import socket
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

sys.path.insert(0, str(Path(__file__).parent))  # makes `flat_options` importable: test files are no package


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
import json, os, signal, sys, traceback
import torch
# What a run imports when it starts: imported once here, not in every fork.
import torch._dynamo, headrace.logs, headrace.probe, headrace.training.launch
from headrace.model import config_from_json
from flat_options import train

def child(asked, said, stop_at):
    os.dup2(os.open(said, os.O_WRONLY), 1)
    os.environ |= asked.pop("environment", {})
    try:
        torch.set_num_threads(1)
        if asked["model"] is not None:
            asked["model"] = config_from_json(asked["model"], "request")
        def told(done, total, note):
            print(done, flush=True)
            if done == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
        summary = train(asked.pop("stores"), progress=told, **asked)
        print("end", summary.steps, summary.stopped_by, flush=True)
        return 0
    except Exception as error:
        print("error", type(error).__name__, str(error).replace(chr(10), " "), flush=True)
        return 9
    except BaseException:
        traceback.print_exc()
        return 10

# One run at a time; a fork costs milliseconds where an import of torch costs seconds.
for request in sys.stdin:
    asked = json.loads(request)
    said, stop_at, port = asked.pop("said"), asked.pop("stop_at"), asked.pop("port")
    pids = []
    for rank, path in enumerate(said):
        pid = os.fork()
        if pid == 0:
            if len(said) > 1:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(len(said)), "LOCAL_RANK": str(rank),
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os._exit(child(asked, path, stop_at))
        pids.append(pid)
    print(json.dumps(pids), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)
"""


class Run:
    """train() in so many processes of its own; `lines` and `pid` are of rank 0."""

    def __init__(
        self, server: subprocess.Popen[str], directory: Path, asked: dict[str, Any], world: int, stop_at: int
    ) -> None:
        said = [directory / f"rank-{rank}" for rank in range(world)]
        for path in said:
            os.mkfifo(path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        request = {**asked, "said": said, "stop_at": stop_at, "port": port}
        assert server.stdin is not None
        server.stdin.write(orjson.dumps(request, default=str).decode() + "\n")
        server.stdin.flush()
        assert server.stdout is not None
        self._answers = server.stdout
        self.pids = orjson.loads(self._answers.readline())
        self.pid = self.pids[0]
        self._said = [path.open() for path in said]
        self.lines: list[str] = []

    def wait_for_step(self, step: int) -> None:
        for line in self._said[0]:
            self.lines.append(line.strip())
            if line.startswith(("end", "error")) or int(line) >= step:
                return
        raise AssertionError(f"the run ended with {self.wait_all()} before step {step}")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_all(self) -> list[tuple[int, str]]:
        """(Exit code, last line) of every rank; minus the signal's number when one killed it."""
        last = []
        for rank, said in enumerate(self._said):
            lines = [line.strip() for line in said]
            said.close()
            self.lines += lines if rank == 0 else []
            last.append(lines[-1] if lines else "")
        return list(zip(orjson.loads(self._answers.readline()), last, strict=True))

    def wait(self) -> int:
        """Exit code of rank 0."""
        return self.wait_all()[0][0]


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

    def start(*, world: int = 1, stop_at: int = 0, **asked: Any) -> Run:
        directory = tmp_path / f"said-{next(numbers)}"
        directory.mkdir()
        return Run(server, directory, asked, world, stop_at)

    return start
