"""thread_pool.py, forks.py: batches made ahead are in order and bounded; no thread is left when the loader goes."""

import gc
import multiprocessing
import os
import signal
import threading
import weakref
from pathlib import Path

import pytest

from headrace.errors import ShardError, WorkerError
from headrace.load import BatchOptions, Loader, ReadOptions
from headrace.load.thread_pool import OrderedThreadPool

OTHERS = set()
"""Threads of loaders that something before this test still holds, alive when it began."""


def loading_threads():
    found = [thread for thread in threading.enumerate() if thread.name.startswith("headrace-load")]
    return [thread for thread in found if thread not in OTHERS]


@pytest.fixture(autouse=True)
def nothing_is_left():
    OTHERS.clear()
    OTHERS.update(loading_threads())
    shared = set(Path("/dev/shm").iterdir())
    yield
    gc.collect()
    assert loading_threads() == []
    # Others use /dev/shm at the same time: what is new must not be ours.
    assert [new for new in set(Path("/dev/shm").iterdir()) - shared if "headrace" in new.name] == []


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this kernel has no batch threads")
def test_threads_that_work_ahead_do_not_interrupt_whoever_wakes_them():
    pipeline = OrderedThreadPool(lambda _: os.sched_getscheduler(0), threads=1)
    pipeline.submit(None)
    assert pipeline.take() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    pipeline.close()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_work(threads):
    turns = [threading.Event() for _ in range(6)]

    def make(number):
        turns[number].wait()
        return number

    pipeline = OrderedThreadPool(make, threads=threads)
    for number in range(6):
        pipeline.submit(number)
    for turn in reversed(turns):  # finished last to first, where threads allow
        turn.set()
    assert [pipeline.take() for _ in range(6)] == list(range(6))
    pipeline.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_deliver_what_the_caller_would_make(fake_store, threads):
    plain = [
        b.tokens.tolist()
        for b in Loader(fake_store(3000), seq_len=9, batch_size=4, epochs=2, reading=ReadOptions(threads=0))
    ]
    with Loader(
        fake_store(3000), seq_len=9, batch_size=4, epochs=2, reading=ReadOptions(threads=threads)
    ) as loader:
        assert [b.tokens.tolist() for b in loader] == plain


def test_no_more_is_made_ahead_than_asked(fake_store):
    store = fake_store(9000)
    with Loader(store, seq_len=9, batch_size=4, reading=ReadOptions(threads=2, prefetch=3)) as loader:
        for step in range(1, 30):
            next(loader)
            assert store.gathered <= step + 3


def test_an_error_comes_at_its_batch_and_the_next_call_tries_again(fake_store):
    for threads in (0, 2):
        store = fake_store(900, fail=[None, None, ShardError("block 3 is damaged")])
        plain = [b.tokens.tolist() for b in Loader(fake_store(900), seq_len=9, batch_size=4, epochs=1)]
        got, failures = [], 0
        with Loader(store, seq_len=9, batch_size=4, epochs=1, reading=ReadOptions(threads=threads)) as loader:
            while len(got) < len(plain):
                position = loader.position
                try:
                    got.append(next(loader).tokens.tolist())
                except ShardError:
                    failures += 1
                    assert loader.position == position
        assert failures == 1
        assert got == plain


def test_a_loader_that_is_dropped_ends_its_threads(fake_store):
    loader = Loader(fake_store(3000), seq_len=9, batch_size=4, reading=ReadOptions(threads=3))
    next(loader)
    assert len(loading_threads()) == 3
    gone = weakref.ref(loader)
    del loader
    gc.collect()
    assert gone() is None
    assert loading_threads() == []


def test_leaving_a_loop_by_an_exception_keeps_the_place(fake_store):
    loader = Loader(fake_store(3000), seq_len=9, batch_size=4, reading=ReadOptions(threads=2))
    with loader:

        def loop():
            for batch in loader:
                if batch.step == 2:
                    raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            loop()
        assert loader.position == 12
        assert next(loader).step == 3
    assert loading_threads() == []


def test_ctrl_c_while_waiting_loses_nothing(fake_store):
    store = fake_store(3000)
    hold, waiting = threading.Event(), threading.Event()
    plain_gather = store.gather

    def gather(*args, **kwargs):
        waiting.set()
        hold.wait()
        return plain_gather(*args, **kwargs)

    store.gather = gather
    with Loader(store, seq_len=9, batch_size=4, reading=ReadOptions(threads=1)) as loader:
        main = threading.main_thread().ident
        interrupt = threading.Thread(
            target=lambda: (waiting.wait(), signal.pthread_kill(main, signal.SIGINT))
        )
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(loader)
        interrupt.join()
        assert loader.position == 0
        hold.set()
        assert next(loader).position == 0
        assert next(loader).position == 4


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_childs_loader_is_refused_and_the_parents_goes_on(fake_store):
    for threads in (0, 2):
        with Loader(
            fake_store(3000), seq_len=9, batch_size=4, reading=ReadOptions(threads=threads)
        ) as loader:
            next(loader)
            context = multiprocessing.get_context("fork")
            answers = context.SimpleQueue()

            def child(loader=loader, answers=answers):
                try:
                    next(loader)
                except WorkerError as error:
                    answers.put(str(error))

            process = context.Process(target=child)
            process.start()
            assert "forked child" in answers.get()
            process.join()
            assert process.exitcode == 0
            assert next(loader).step == 1


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_loader_that_has_not_begun_may_be_forked(fake_store):
    loader = Loader(fake_store(3000), seq_len=9, batch_size=4, reading=ReadOptions(threads=2))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=lambda: answers.put(next(loader).rows.tolist()))
    process.start()
    rows = answers.get()
    process.join()
    assert rows == next(loader).rows.tolist()
    loader.close()


def test_ten_epochs_take_no_more_memory_than_two(make_store):
    import psutil

    store, _, _ = make_store(200_000, codec="zstd", block_tokens=4096)
    process, sizes = psutil.Process(), []
    with Loader(
        store,
        seq_len=63,
        batch_size=64,
        reading=ReadOptions(threads=2),
        output=BatchOptions(framework="torch"),
    ) as loader:
        while loader.position < 10 * loader.num_rows:
            batch = next(loader)
            batch.labels  # noqa: B018  # widened, as in training
            if loader.position % loader.num_rows < 64:
                gc.collect()
                sizes.append(process.memory_info().rss)
    assert len(sizes) >= 9
    assert max(sizes[2:]) - sizes[1] < 8 << 20


def test_a_ramp_of_batch_sizes_restarts_what_was_made_ahead(fake_store):
    with Loader(fake_store(3000), seq_len=9, batch_size=4, reading=ReadOptions(threads=2)) as loader:
        next(loader)
        loader.batch_size = 6
        batch = next(loader)
        assert (batch.position, batch.num_rows) == (4, 6)
        assert len(loading_threads()) == 2


def test_no_module_of_ours_opens_shared_memory():
    source = Path(__file__).parents[2] / "src" / "headrace" / "load"
    assert not [path for path in source.glob("*.py") if "shared_memory" in path.read_text()]
