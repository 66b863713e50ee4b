"""A small corpus that looks like code, and a demo small enough for a test."""

from __future__ import annotations

import gzip
import io
import json

import pytest

from headrace.demo import DemoOptions, run_demo
from headrace.demo.display import DemoDisplay
from headrace.demo.steps import STEPS


def document(number: int) -> str:
    lines = [f'"""Module {number}."""', "", "import os", ""]
    for i in range(12):
        lines += [
            f"def function_{number}_{i}(value, default=None):",
            f'    """Return the value of item {i}, or the default."""',
            f"    if value is None and default != {i * number}:",
            "        return default",
            f"    return os.path.join(str(value), 'part_{i}')",
            "",
        ]
    return "\n".join(lines)


@pytest.fixture
def corpus_file(tmp_path):
    path = tmp_path / "code.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for number in range(120):
            file.write(json.dumps({"text": document(number)}) + "\n")
    return path


SMALL = {
    "steps": 4,
    "vocab_size": 300,
    "seq_len": 64,
    "batch_size": 4,
    "prompts": 5,
    "measure_s": 0.05,
}


@pytest.fixture
def small_options():
    return SMALL


@pytest.fixture
def output():
    """What a test's demo prints, instead of stderr."""
    return io.StringIO()


@pytest.fixture
def one_thread():
    """On a busy machine a second thread waits for a core while the first one spins."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_demo(output, one_thread):
    from rich.console import Console

    def run(files, out, **others):
        display = DemoDisplay(steps=len(STEPS), console=Console(file=output, width=100))
        return run_demo(files, out, display=display, options=DemoOptions(**{**SMALL, **others}))

    return run
