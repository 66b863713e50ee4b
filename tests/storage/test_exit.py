"""threads.py, event_loop.py, retry.py: a process ends while its store hangs or refuses, however it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = """
import os, signal, sys, threading
import numpy as np
sys.path[:0] = [{storage!r}, {store!r}]
from storage_fakes import BlobServer
from store_fakes import make_store, sample_tokens
import headrace as hr
from headrace.load import ReadOptions
from headrace.storage import MemoryBlob

where, how, threads = sys.argv[1:]
tokens, ends = sample_tokens(6400)
make_store("memory://exit", tokens, ends)
blob, reached = MemoryBlob("exit"), threading.Event()
if where == "memory":
    inner = MemoryBlob.get_range
    def hang(self, path, start, stop):
        if not path.startswith("data/"):
            return inner(self, path, start, stop)
        reached.set()
        threading.Event().wait()
    MemoryBlob.get_range = hang
    url = "memory://exit"
else:
    server = BlobServer(blob).__enter__()
    def trouble(number, path):
        if not path.startswith("/data/"):
            return None
        reached.set()
        return "hang" if where == "http-hangs" else 503
    server.trouble = trouble
    url = server.url
store = hr.Store.open(url)
loader = hr.Loader(store, seq_len=32, batch_size=4, reading=ReadOptions(threads=int(threads)))
if how == "interrupt":
    def press():
        reached.wait()
        print("reached", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=press, daemon=True).start()
    next(iter(loader))
def take():
    try:
        next(iter(loader))
    except Exception as error:
        print("ended:", type(error).__name__)
thread = threading.Thread(target=take, daemon=how != "joined")
thread.start()
reached.wait()
print("reached", flush=True)
if how == "raise":
    raise ValueError("of the user")
if how == "close":
    loader.close()
    store.close()
    thread.join()
"""


@pytest.mark.parametrize("where", ["memory", "http-hangs", "http-503"])
@pytest.mark.parametrize(
    ("how", "threads"), [("raise", 2), ("end", 2), ("close", 2), ("interrupt", 0), ("joined", 2)]
)
def test_a_process_ends_while_its_store_does_not_answer(tmp_path, where, how, threads):
    """By an exception, at the end of its program, after close, by Ctrl-C, and with a thread that Python waits for."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(storage=str(HERE), store=str(HERE.parent / "store")))
    process = subprocess.Popen(
        [sys.executable, str(script), where, how, str(threads)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout.readline() == "reached\n", process.communicate()[1]
    began = time.monotonic()
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    took = time.monotonic() - began
    expected = {"raise": (1,), "interrupt": (-signal.SIGINT, 1, 130)}.get(how, (0,))
    assert process.returncode in expected, err
    assert ("KeyboardInterrupt" in err) == (how == "interrupt")
    assert took < 30, f"{took:.1f} s"
    assert "FATAL" not in err
    assert "panicked" not in err


def test_a_pool_ends_its_threads_when_it_is_dropped_or_shut_down():
    from headrace.storage import DaemonPool

    pool = DaemonPool(3, name="test-pool")
    assert pool.map(lambda x: x * x, range(20)) == [x * x for x in range(20)]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("test-pool")]
    assert 1 <= len(threads) <= 3
    assert all(thread.daemon for thread in threads)
    pool.shutdown()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="test-pool: the thread pool was shut down"):
        pool.submit(print)
    other = DaemonPool(1, name="dropped-pool")
    other.map(abs, [1])
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("dropped-pool")]
    del other
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_an_error_of_one_item_is_raised_and_the_pool_goes_on():
    from headrace.storage import DaemonPool

    pool = DaemonPool(2, name="errors")
    with pytest.raises(ZeroDivisionError):
        pool.map(lambda x: 1 // x, [1, 0, 2])
    assert pool.map(lambda x: 1 // x, [1, 1]) == [1, 1]
    pool.shutdown()
