"""Several workers compute one job's rows: local processes or Ray actors, with the commits of one process."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headrace.errors import ConfigError, WorkerError
from headrace.generation import EngineOptions, PrefixCacheOptions, Request, SamplingOptions, generate
from headrace.generation.distributed import EnginePool, EngineSetup, open_transport
from headrace.sink import read_predictions
from headrace.tokens import load_tokenizer

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
def setups(model):
    setup = EngineSetup(
        model=str(model),
        engine="native",
        dtype="float32",
        device="cpu",
        batch_size=4,
        threads=1,
        prefix_cache=PrefixCacheOptions(),
    )
    return [setup, setup]


@pytest.fixture
def transport():
    with closing(open_transport(2, local=True)) as transport:
        yield transport


def kill_workers():
    """Kill all forks of this process's fork server."""
    for server in psutil.Process().children():
        for fork in server.children():
            with suppress(psutil.NoSuchProcess):
                fork.kill()


@pytest.mark.parametrize("distribute", ["local", "ray"])
def test_two_workers_store_what_one_process_stores(model, whole, tmp_path, distribute):
    if distribute == "ray":
        pytest.importorskip("ray")
    summary = generate(
        model, PROMPTS, tmp_path, engine=replace(TWO_WORKERS, distribute=distribute), **OPTIONS
    )
    assert (summary.num_predictions, summary.num_errors) == (80, 0)
    assert read_predictions(tmp_path, sort=True).equals(whole)
    # The number of workers is no part of the request.
    assert generate(model, PROMPTS, tmp_path, engine=ENGINE, **OPTIONS).num_new == 0


def requests_for(count):
    sampling = SamplingOptions(max_new_tokens=8, temperature=1.0)
    return [
        Request(prompt_id=f"{i:03d}", token_ids=tuple(f"prompt {i}".encode()), sampling=sampling)
        for i in range(count)
    ]


def test_the_requests_of_a_killed_worker_are_done_by_the_one_that_replaces_it(transport, setups):
    pool = EnginePool(transport, setups)
    expected = {row.prompt_id: row.token_ids for row in pool.run(requests_for(60))}
    rows = {}
    pool = EnginePool(transport, setups)
    for number, row in enumerate(pool.run(requests_for(60))):
        assert row.prompt_id not in rows
        rows[row.prompt_id] = row.token_ids
        if number == 10:
            kill_workers()
    assert rows == expected


def test_workers_that_die_again_and_again_end_the_job(transport, setups):
    pool = EnginePool(transport, setups)
    poll = transport.poll

    def kill_and_poll():
        kill_workers()
        return poll()

    transport.poll = kill_and_poll
    with pytest.raises(WorkerError, match="died 3 times without making a row, the last one with signal 9"):
        list(pool.run(requests_for(8)))


def test_requests_are_read_only_as_workers_take_them(transport, setups):
    read = 0

    def source():
        nonlocal read
        for request in requests_for(200):
            read += 1
            yield request

    made = 0
    for _ in EnginePool(transport, setups).run(source()):
        made += 1
        assert read - made <= 2 * 3 * 4 + 2 * 3 * 4  # held by workers, and on their way back
    assert made == 200


def test_a_job_killed_with_its_workers_goes_on_and_leaves_no_process(model, whole, tmp_path):
    script = (
        "import os, signal, sys\n"
        "from headrace.generation import EngineOptions, PrefixCacheOptions, generate\n"
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
    mark = f"distributed-{os.getpid()}"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "TEST_MARK": mark}
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), str(tmp_path / "out")], env=env, check=False
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 90
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
