"""Rows to store, and a writer in a process of its own that can be killed at a step."""

import os
import subprocess
import sys

import pytest

from headrace.types import Prediction

WRITER = """
import os, signal, sys
from headrace.sink import Sink
from headrace.types import Prediction
out, format, rows, part_rows, step, nth = sys.argv[1:]
seen = 0

def stop(self, name):
    global seen
    seen += name == step
    if seen == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)

Sink._step = stop
request = {"model": "m" * 32, "sampling": {"seed": 1}}
with Sink(out, request=request, format=format, part_rows=int(part_rows)) as sink:
    for i in range(int(rows)):
        sink.put(Prediction(prompt_id=f"{i:09d}", sample_index=0, prompt="p", text=f"t{i}", token_ids=(i,),
                            finish_reason="stop", completion_tokens=1))
        print(i, flush=True)
"""


@pytest.fixture
def request_json():
    """What the writer below asks for."""
    return {"model": "m" * 32, "sampling": {"seed": 1}}


@pytest.fixture
def make_row():
    """Row number -> a prediction."""

    def make(i, *, sample_index=0, error=None, text=None):
        return Prediction(
            prompt_id=f"{i:09d}",
            sample_index=sample_index,
            prompt="p",
            text=f"t{i}" if text is None else text,
            token_ids=(i,),
            finish_reason="error" if error else "stop",
            prompt_tokens=1,
            completion_tokens=1,
            error=error,
        )

    return make


@pytest.fixture
def start_writer():
    """Start a process that stores rows; it kills itself at the nth time of a step (-1: never)."""
    started = []

    def start(out, *, format="parquet", rows=10, part_rows=4, step="never", nth=-1):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(out), format, str(rows), str(part_rows), step, str(nth)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.stdout.close()
        child.wait()
