"""sampler.py, activity.py, kernel.py, worker_sampling.py, model_work.py: real threads, processes and stacks."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headrace.diagnosis import DiagnosedLoader, DiagnoseOptions
from headrace.diagnosis.activity import StackClassifier
from headrace.diagnosis.kernel import OwnThreads, Schedule, descendants, kernel_state, read_usage
from headrace.diagnosis.worker_sampling import WorkerSamples

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux")


def until(condition):
    """Wait for another thread or process to get there; 20 s at most."""
    end_s = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def state_of(thread):
    return kernel_state(os.getpid(), thread.native_id)


def activity_of(thread):
    return StackClassifier().activity(sys._current_frames().get(thread.ident), state_of(thread))


def test_the_kernel_says_what_a_thread_waits_for():
    ours, theirs = socket.socketpair()
    read_end, write_end = os.pipe()
    lock = threading.Lock()
    lock.acquire()
    threads = {
        "socket": in_thread(ours.recv, 1),
        "pipe": in_thread(os.read, read_end, 1),
        "lock": in_thread(lock.acquire),
        "sleep": in_thread(time.sleep, 30),
    }
    if state_of(threads["lock"]) in ("unknown", "other"):
        pytest.skip("this system does not show system calls")
    for state, thread in threads.items():
        until(lambda thread=thread, state=state: state_of(thread) == state)
    theirs.send(b"x")
    os.write(write_end, b"x")
    lock.release()
    for state in ("socket", "pipe"):
        threads[state].join()
    for end in (ours, theirs):
        end.close()
    os.close(read_end)
    os.close(write_end)


def test_threads_of_python_work_are_seen_waiting_for_the_gil():
    stop = threading.Event()

    def computes():
        while not stop.is_set():
            sum(range(1000))

    threads = [in_thread(computes) for _ in range(2)]
    own = OwnThreads()
    if own.state(threads[0].native_id) == "unknown":
        pytest.skip("this system does not show system calls")
    for thread in threads:
        until(lambda thread=thread: own.state(thread.native_id) == "gil")
    stop.set()
    for thread in threads:
        thread.join()
        until(lambda thread=thread: own.state(thread.native_id) == "unknown")  # once it has ended
    own.close()


def test_the_counters_of_a_thread_grow_with_its_work_and_are_zero_without_it():
    own = OwnThreads()
    mine = threading.get_native_id()
    before = own.schedule(mine)
    if before == Schedule():
        pytest.skip("this system does not count what threads wait for")
    until(lambda: sum(range(10_000)) and own.schedule(mine).cpu_s > before.cpu_s)
    assert own.schedule(2**22 + 1) == Schedule()  # no such thread
    own.close()


def test_an_extension_that_waits_for_its_threads_is_idle():
    """Only work needs a core or the GIL."""
    frame = sys._getframe()
    classifier = StackClassifier()
    for state in ("lock", "poll", "other"):
        assert classifier.activity(frame, state) == "idle"
    for state in ("gil", "running", "unknown"):
        assert classifier.activity(frame, state) == "cpu"


ENDLESS = DiagnoseOptions(steps=10**6, precision=1e-9, method="waits")
"""Samples are taken by a clock: a loop goes on until there are enough of them, however busy the machine is."""


def loop_until(diagnosed, enough):
    end_s = time.monotonic() + 60
    for _ in diagnosed:
        session = diagnosed._session
        if (session.recorder.live_steps >= 40 and enough(session)) or time.monotonic() > end_s:
            break
    return diagnosed.result


def test_the_users_own_loop_does_not_name_the_loaders_work():
    """Its line stands above the loader's on the stack."""

    def frames():
        yield sys._getframe()

    for tokenizer_frame in DiagnosedLoader(
        frames(), observe=False, verbose=False
    ):  # a line that says "tokenize"
        assert StackClassifier().named(tokenizer_frame) is None


def test_two_threads_of_python_work_are_limited_by_the_gil():
    stop = threading.Event()

    def computes():
        while not stop.is_set():
            sum(range(1000))

    def batches():
        while True:
            yield sum(value * value for value in range(200_000))

    hog = in_thread(computes)
    diagnosed = DiagnosedLoader(batches(), options=ENDLESS, verbose=False)
    result = loop_until(diagnosed, lambda session: session._sampler.samples.waits >= 15)
    stop.set()
    hog.join()
    if result.evidence.gil_threads == 0:
        pytest.skip("this system does not show system calls")
    assert result.finding.limiter == "gil", result.evidence


def test_a_stack_names_the_work_and_a_queue_the_waiting():
    data = gzip.compress(os.urandom(1 << 20))
    text = json.dumps(list(range(200_000)))
    stop = threading.Event()

    def unpacks():
        while not stop.is_set():
            gzip.decompress(data)

    def parses():
        while not stop.is_set():
            json.loads(text)

    waits = in_thread(stop.wait)
    until(lambda: activity_of(waits) == "idle")
    for work, activity in ((unpacks, "decompression"), (parses, "parsing")):
        thread = in_thread(work)
        until(lambda thread=thread, activity=activity: activity_of(thread) == activity)
    stop.set()


def test_usage_counts_threads_children_and_bytes():
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in descendants(os.getpid())
        usage = read_usage(os.getpid())
        assert child.pid in usage.workers_s
        assert any(name.endswith(f"({os.getpid()})") for name in usage.threads_s)
        assert usage.idle_s > 0
    finally:
        child.communicate(b"\n")


def test_what_the_system_does_not_show_is_unknown():
    assert kernel_state(os.getpid(), 2**22 + 1) == "unknown"
    assert read_usage(2**22 + 1).threads_s == {}


def test_a_loop_over_real_work_names_it():
    data = gzip.compress(os.urandom(1 << 20) + bytes(1 << 22))

    def batches():
        while True:
            yield gzip.decompress(data)

    diagnosed = DiagnosedLoader(batches(), options=ENDLESS, verbose=False)
    result = loop_until(diagnosed, lambda session: session._sampler.samples.waits >= 20)
    assert result.finding.limiter == "decompression"
    assert result.evidence.samples >= 20
    assert not [
        t for t in threading.enumerate() if t.name == "headrace-diagnose" and t.is_alive() and t.join(5)
    ]


class _Unpacks:
    """A dataset whose items are unpacked in the worker."""

    data = gzip.compress(bytes(1 << 22))

    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        return len(gzip.decompress(self.data)) + index


def test_workers_of_a_dataloader_say_what_they_do():
    loader_module = pytest.importorskip("torch.utils.data")
    started = []
    loader = loader_module.DataLoader(
        _Unpacks(), batch_size=1, num_workers=1, worker_init_fn=started.append, multiprocessing_context="fork"
    )
    own_function = loader.worker_init_fn
    diagnosed = DiagnosedLoader(loader, options=ENDLESS, verbose=False)
    taken = []

    def unpacking_was_seen(session):
        return len(taken) >= 60 and session.worker_samples.read()[0]["decompression"] > 0

    end_s = time.monotonic() + 60
    for batch in diagnosed:
        taken.append(int(batch))
        if unpacking_was_seen(diagnosed._session) or time.monotonic() > end_s:
            break
    assert taken == [(1 << 22) + i for i in range(len(taken))]
    assert loader.worker_init_fn is own_function
    evidence = diagnosed.result.evidence
    assert evidence.workers >= 1
    assert evidence.producers.get("decompression", 0) > 0
    assert evidence.queue_fill is not None


def test_samples_of_workers_add_up_and_their_file_goes():
    samples = WorkerSamples()
    samples.set_waiting(waiting=True)
    assert samples.read() == ({}, 0)
    path = samples._path
    samples.close()
    samples.close()
    assert not Path(path).exists()


def test_the_models_side_is_counted():
    torch = pytest.importorskip("torch")
    from headrace.diagnosis.model_work import model_work

    model = torch.nn.Linear(10, 10, bias=False)
    work = model_work(model, tokens=50, work_s=0.5)
    assert work.flops == 6 * 100 * 50
    assert work.flops_per_s == 2 * work.flops
    assert work.mfu is None
    assert work.bound == "unknown"
    assert "dtype: bfloat16 (--dtype bfloat16)" in work.levers
    assert model_work(model, tokens=0, work_s=0.5) is None
    assert model_work(torch.nn.Identity(), tokens=50, work_s=0.5) is None
