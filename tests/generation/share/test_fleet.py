"""Several workers make one job's rows: local processes and Ray actors, with the commits of one process."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import headrace
from headrace.errors import ConfigError, WorkerError
from headrace.generation import EngineOptions, Request, SamplingOptions, generate
from headrace.generation.share.crew import LocalCrew
from headrace.generation.share.exchange import Setup
from headrace.generation.share.fleet import Fleet
from headrace.sink import read_predictions
from headrace.tokens import load_tokenizer

SRC = Path(headrace.__file__).parents[1]
PROMPTS = [f"prompt number {i}" for i in range(40)]
OPTIONS = {"max_new_tokens": 8, "temperature": 1.0, "num_samples": 2}
ENGINE = EngineOptions(batch_size=4, dtype="float32")
TWO_WORKERS = EngineOptions(batch_size=4, dtype="float32", workers=2)


@pytest.fixture(scope="module")
def model(gpt, tmp_path_factory):
    from headrace.model import to_hf

    path = tmp_path_factory.mktemp("model")
    to_hf(gpt, load_tokenizer("byte"), path)
    return path


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    generate(model, PROMPTS, out, engine=ENGINE, **OPTIONS)
    return read_predictions(out, sort=True)


@pytest.fixture
def crew(model):
    setup = Setup(model=str(model), engine="native", dtype="float32", device="cpu", batch_size=4, threads=1)
    crew = LocalCrew([setup, setup])
    yield crew
    crew.close()


@pytest.mark.parametrize("distribute", ["local", "ray"])
def test_two_workers_store_what_one_process_stores(model, whole, tmp_path, distribute):
    if distribute == "ray":
        pytest.importorskip("ray")
    summary = generate(
        model, PROMPTS, tmp_path, engine=replace(TWO_WORKERS, distribute=distribute), **OPTIONS
    )
    assert (summary.num_predictions, summary.num_errors) == (80, 0)
    assert read_predictions(tmp_path, sort=True).equals(whole)
    # The number of workers is no part of what was asked for.
    assert generate(model, PROMPTS, tmp_path, engine=ENGINE, **OPTIONS).num_new == 0


def requests_for(count):
    sampling = SamplingOptions(max_new_tokens=8, temperature=1.0)
    return [
        Request(prompt_id=f"{i:03d}", token_ids=tuple(f"prompt {i}".encode()), sampling=sampling)
        for i in range(count)
    ]


def test_the_work_of_a_killed_worker_is_done_by_its_successor(crew):
    fleet = Fleet(crew, workers=2, batch_size=4)
    expected = {
        row.prompt_id: row.token_ids for row in Fleet(crew, workers=2, batch_size=4).run(requests_for(60))
    }
    rows = {}
    fleet = Fleet(crew, workers=2, batch_size=4)
    for number, row in enumerate(fleet.run(requests_for(60))):
        assert row.prompt_id not in rows
        rows[row.prompt_id] = row.token_ids
        if number == 10:
            for pid in crew.pids():
                os.kill(pid, signal.SIGKILL)
    assert rows == expected


def test_workers_that_die_again_and_again_end_the_job(crew):
    fleet = Fleet(crew, workers=2, batch_size=4)
    start = crew.start

    def start_and_kill(number):
        start(number)
        os.kill(crew.pids()[number], signal.SIGKILL)

    crew.start = start_and_kill
    for pid in crew.pids():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="died 3 times without making a row, the last one with signal 9"):
        list(fleet.run(requests_for(8)))


def test_requests_are_read_only_as_workers_take_them(crew):
    read = 0

    def source():
        nonlocal read
        for request in requests_for(200):
            read += 1
            yield request

    made = 0
    for _ in Fleet(crew, workers=2, batch_size=4).run(source()):
        made += 1
        assert read - made <= 2 * 3 * 4 + 2 * 3 * 4  # held by workers, and on their way back
    assert made == 200


def test_a_job_killed_with_its_workers_goes_on_and_leaves_no_process(model, whole, tmp_path):
    script = (
        "import os, signal, sys\n"
        "from headrace.generation import EngineOptions, generate\n"
        "from headrace.sink import Sink\n"
        "put, seen = Sink.put, []\n"
        "def stop(self, row):\n"
        "    seen.append(row)\n"
        "    if len(seen) == 30:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return put(self, row)\n"
        "Sink.put = stop\n"
        f"generate(sys.argv[1], {PROMPTS!r}, sys.argv[2], engine={TWO_WORKERS!r}, **{OPTIONS!r})\n"
    )
    mark = f"fleet-{os.getpid()}"
    env = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "FLEET_MARK": mark}
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), str(tmp_path / "out")], env=env, check=False
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)
    summary = generate(model, PROMPTS, tmp_path / "out", engine=TWO_WORKERS, **OPTIONS)
    assert summary.num_new == 80 - 29
    assert read_predictions(tmp_path / "out", sort=True).equals(whole)


def marked(mark):
    """Processes that were started with this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_a_worker_that_cannot_load_says_why(model, tmp_path):
    with pytest.raises(ConfigError, match="no engine named"):
        generate(model, PROMPTS, tmp_path, engine=EngineOptions(workers=2, name="nothing"))
    with pytest.raises(ConfigError, match="no dtype named 'int3'"):
        generate(model, PROMPTS, tmp_path, engine=EngineOptions(workers=2, dtype="int3"))
    with pytest.raises(ConfigError, match="no distribute named 'post'"):
        generate(model, PROMPTS, tmp_path, engine=EngineOptions(workers=2, distribute="post"))
    with pytest.raises(ConfigError, match="workers is 0"):
        generate(model, PROMPTS, tmp_path, engine=EngineOptions(workers=0))
    assert not list(tmp_path.iterdir())
