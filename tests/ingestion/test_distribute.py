"""Worker processes and the fork server: killed one by one, nothing is lost and no process is left.

Modules: distribute.py, fork_server.py, units/queue.py.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import psutil
import pytest

from headrace.errors import TokenizerError, WorkerError
from headrace.ingestion import JobOptions, ingest
from headrace.ingestion.units.queue import UnitQueue
from headrace.ingestion.units.schedule import UnitSchedule
from headrace.tokens import load_tokenizer
from headrace.workers import ForkServer, LocalTransport, Notice, Preload, WorkerPool

SMALL = {"tokenizer": "byte", "job": JobOptions(shard_text_bytes=4000, block_tokens=1000)}


@pytest.fixture
def corpus(tmp_path, make_documents, write_jsonl):
    return [str(write_jsonl(tmp_path / f"{i}.jsonl.gz", make_documents(120, seed=i))) for i in range(3)]


def _processes(of=None):
    """The fork server, and its forks."""
    for child in psutil.Process(of).children():
        with contextlib.suppress(psutil.Error):
            if any("headrace.workers.fork_server_main" in word for word in child.cmdline()):
                return child.pid, [fork.pid for fork in child.children()]
    return None, []


def test_a_worker_that_dies_is_replaced_and_its_unit_done_again(tmp_path, corpus, tree):
    """Killed from outside while the job runs: the result is the same."""
    ingest(corpus, tmp_path / "one", workers=1, **SMALL)
    killed = []

    def progress(done, total, note):
        _, forks = _processes()
        if forks and not killed and done:
            os.kill(forks[-1], signal.SIGKILL)
            killed.append(forks[-1])

    ingest(corpus, tmp_path / "two", workers=2, progress=progress, **SMALL)
    assert killed
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert _processes() == (None, [])


def test_a_fork_server_that_dies_is_one_line_and_the_same_command_continues(tmp_path, corpus, tree):
    ingest(corpus, tmp_path / "one", workers=1, **SMALL)

    def progress(done, total, note):
        server, forks = _processes()
        if server and forks and done:
            os.kill(server, signal.SIGKILL)
            for fork in forks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(fork, signal.SIGKILL)

    with pytest.raises(WorkerError, match=r"died with signal 9 \(SIGKILL\).*run the same command again"):
        ingest(corpus, tmp_path / "two", workers=2, progress=progress, **SMALL)
    ingest(corpus, tmp_path / "two", workers=2, **SMALL)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_no_process_is_left_of_a_killed_job(tmp_path, corpus):
    script = (
        "import sys, time; from headrace.ingestion import JobOptions, ingest\n"
        "def progress(done, total, note):\n"
        "    if done: print('at work', flush=True); time.sleep(60)\n"
        f"ingest({corpus!r}, sys.argv[1], workers=2, tokenizer='byte', job=JobOptions(shard_text_bytes=4000),"
        "       progress=progress)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "store"], stdout=subprocess.PIPE) as job:
        assert job.stdout.readline() == b"at work\n"
        server, forks = _processes(job.pid)
        job.kill()
    assert server
    assert len(forks) >= 2
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, [server, *forks])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in (server, *forks) if psutil.pid_exists(pid)]


def test_what_fails_while_loading_is_raised_in_the_parent(tmp_path, corpus, tokenizer_json):
    tokenizer = load_tokenizer(tokenizer_json)
    files = tokenizer.files()

    class Broken:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def files(self):
            return {name: data for name, data in files.items() if name != "tokenizer.json"}

    with pytest.raises(TokenizerError, match="files are incomplete"):
        ingest(corpus, tmp_path / "store", **SMALL | {"tokenizer": Broken()}, workers=2)
    assert _processes() == (None, [])


def test_the_fork_server_finds_an_engine_that_is_not_exact(tmp_path, corpus, tokenizer_json):
    """The reference's ids are computed in a fork of their own, while the fast engine loads."""
    from headrace.ingestion import find_sources
    from headrace.ingestion.distribute import TokenizerSpec, WorkerSetup
    from headrace.ingestion.job.destination import Destination
    from headrace.ingestion.job.job import IngestJob
    from headrace.ingestion.options import ContentOptions
    from headrace.storage import open_blob
    from headrace.tokens import Mismatch

    job = IngestJob(
        sources=tuple(find_sources(corpus)),
        options=ContentOptions(),
        tokenizer=load_tokenizer(tokenizer_json),
        generation=0,
    )
    setup = WorkerSetup.of(job, Destination(store=open_blob(tmp_path / "store")), limits=JobOptions())
    with closing(ForkServer()) as server:
        server.preload(Preload(load=TokenizerSpec, argument=setup))
        pool = WorkerPool(LocalTransport(server), 2)
        messages = list(pool.run(UnitQueue(UnitSchedule([])), notices=1))
    assert messages == [Notice("gigatoken")]

    from multiprocessing.connection import Pipe

    def run_in_fork(function):
        ours, theirs = Pipe()
        threading.Thread(target=function, args=(theirs,)).start()
        return ours

    class Wrong:
        engine = "gigatoken"

        def encode_batch(self, texts):
            ids, offsets = job.tokenizer.encode_batch(texts)
            return np.where(np.arange(len(ids)) == len(ids) - 1, ids ^ 1, ids), offsets

    spec = TokenizerSpec(setup, run_in_fork)
    spec._tokenizer = Wrong()
    assert isinstance(spec.recv(spec.pipes()[0]), Mismatch)
