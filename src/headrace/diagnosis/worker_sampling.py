"""A torch DataLoader -> counts of what its worker processes are doing, written by a thread in each of them.

From outside a worker process shows whether it runs or waits; only from inside its stack says for what.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

from headrace.diagnosis.activity import Activity, StackClassifier
from headrace.diagnosis.kernel import kernel_state
from headrace.diagnosis.pace import SamplingPace

NAMES: Final[tuple[str, ...]] = get_args(Activity)
_MAX_WORKERS: Final = 256
_HEADER: Final = 64
_ROW: Final = struct.calcsize("<d") * len(NAMES)
_TICK_S: Final = 0.01


class WorkerSamples:
    """A file with one row of counts for each worker, and the function that workers call at their start."""

    def __init__(self) -> None:
        handle, self._path = tempfile.mkstemp(prefix="headrace-diagnose-")
        os.ftruncate(handle, _HEADER + _MAX_WORKERS * _ROW)
        self._map = mmap.mmap(handle, _HEADER + _MAX_WORKERS * _ROW)
        os.close(handle)

    def set_waiting(self, waiting: bool) -> None:
        """Say whether the loop waits: workers count only then."""
        self._map[0] = waiting

    def read(self) -> tuple[Counter[str], int]:
        """What the workers did while the loop waited, and how many workers there were.

        Returns:
            Seconds by activity, summed over the workers' threads ("idle" only of their main threads), and workers.
        """
        total: Counter[str] = Counter()
        workers = 0
        for row in range(_MAX_WORKERS):
            values = struct.unpack_from(f"<{len(NAMES)}d", self._map, _HEADER + row * _ROW)
            workers += any(values)
            for name, value in zip(NAMES, values, strict=True):
                if value:
                    total[name] += value
        return total, workers

    def close(self) -> None:
        """Remove the file; workers that still run keep writing to its memory."""
        Path(self._path).unlink(missing_ok=True)

    def install(self, loader: Any) -> Callable[[], None]:
        """Have the workers that a DataLoader starts next be sampled.

        Returns:
            What undoes the change to the loader; call it once the workers have started.
        """
        before = loader.worker_init_fn
        loader.worker_init_fn = WorkerStart(self._path, before)

        def undo() -> None:
            loader.worker_init_fn = before

        return undo


def starts_workers(loader: object) -> bool:
    """Whether a loop over a torch DataLoader is about to start worker processes."""
    return (
        hasattr(loader, "worker_init_fn")
        and getattr(loader, "num_workers", 0) > 0
        and getattr(loader, "_iterator", None) is None  # persistent workers have started already
    )


class WorkerStart:
    """What a worker calls at its start: the loader's own function, then the sampling thread."""

    def __init__(self, path: str, before: Callable[[int], None] | None) -> None:
        self._path = path
        self._before = before

    def __call__(self, worker: int) -> None:
        """Called in the worker, with its number."""
        if self._before is not None:
            self._before(worker)
        if worker < _MAX_WORKERS:
            thread = threading.Thread(
                target=_sample_worker, args=(self._path, worker), name="headrace-diagnose", daemon=True
            )
            thread.start()


def _sample_worker(path: str, worker: int) -> None:
    try:
        with open(path, "r+b") as file:  # noqa: PTH123  # mmap needs the handle
            counts = mmap.mmap(file.fileno(), _HEADER + _MAX_WORKERS * _ROW)
    except OSError:
        return  # the diagnosis has ended before this worker started
    classifier, me, pid = StackClassifier(), threading.get_ident(), os.getpid()
    main = threading.main_thread().ident
    began = last = time.perf_counter()
    pace, samples = SamplingPace(tick_s=_TICK_S), 0
    seconds = dict.fromkeys(NAMES, 0.0)
    while True:
        time.sleep(pace.pause_s(elapsed_s=last - began))
        now = time.perf_counter()
        if not counts[0]:
            last = now
            continue
        start = time.thread_time()
        ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
        states = {ident: kernel_state(pid, tid) for ident, tid in ids.items() if tid is not None}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  # the documented way to see other threads
            if ident == me or ident not in ids:
                continue
            activity = classifier.activity(frame, states.get(ident, "unknown"))
            if activity != "idle" or ident == main:
                seconds[activity] += now - last
        struct.pack_into(f"<{len(NAMES)}d", counts, _HEADER + worker * _ROW, *seconds.values())
        last = now
        samples += 1
        pace.add(time.thread_time() - start, samples=samples)
