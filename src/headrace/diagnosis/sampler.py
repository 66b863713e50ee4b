"""Ticks of a thread -> while the loop waits for data: who works on what, and how long the GIL was held by others."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from headrace.diagnosis.activity import StackClassifier
from headrace.diagnosis.kernel import descendants, kernel_state, read_text

TICK_S: Final = 0.005
_MAX_SHARE: Final = 0.008
"""Share of one core that sampling may take."""
_LATE_S: Final = 0.002
"""A tick that is later than this, and not for want of a core, waited for the GIL: its holders keep it for 5 ms."""
_CHILDREN_S: Final = 1.0
"""The list of worker processes is read again after so many seconds."""


@dataclass(slots=True, kw_only=True)
class LoopSamples:
    """Counts of what was seen while the loop waited for data (and, for the main thread, while it did not)."""

    waits: int = 0
    """Samples that were taken while the loop waited."""
    main: Counter[str] = field(default_factory=Counter)
    """Activity of the loop's own thread, in waits."""
    producers: Counter[str] = field(default_factory=Counter)
    """Activities of other threads that do something, and of worker processes, in waits: thread samples."""
    work: Counter[str] = field(default_factory=Counter)
    """Activity of the loop's own thread outside waits."""
    ticks: int = 0
    late_ticks: int = 0
    """Ticks in waits that waited for the GIL."""
    runnable: int = 0
    """Python threads, the loop's own included, that had work to do: summed over samples in waits."""
    workers: int = 0
    """Worker processes, the most that were seen."""
    loader_threads: int = 0
    """Other Python threads of this process that were seen working, the most at once."""


class LoopSampler:
    """Samples from a daemon thread of its own; `in_wait` is set by the loop."""

    def __init__(self) -> None:
        self.in_wait = False
        self.workers_sample_themselves = False
        """Whether worker processes are sampled from inside (`worker_sampling`), and not by this thread."""
        self.samples = LoopSamples()
        self.spent_s = 0.0
        """Seconds that samples took."""
        self._main = threading.get_ident()
        self._main_tid = threading.get_native_id()
        self._stop = threading.Event()
        self._classifier = StackClassifier()
        self._children: list[int] = []
        self._children_at = 0.0
        self._thread = threading.Thread(target=self._run, name="headrace-diagnose", daemon=True)

    def start(self) -> None:
        """Begin; the loop's thread is the one that made this object."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. A second call does nothing."""
        self._stop.set()

    def _run(self) -> None:
        began, count = time.perf_counter(), 0
        delay_before = _run_delay_s()
        while not self._stop.is_set():
            due = time.perf_counter() + TICK_S
            time.sleep(TICK_S)
            now = time.perf_counter()
            count += 1
            in_wait, late = self.in_wait, now - due > _LATE_S
            if in_wait:
                self.samples.ticks += 1
            if late:
                delay = _run_delay_s()
                if in_wait and now - due - (delay - delay_before) > _LATE_S:
                    self.samples.late_ticks += 1
                delay_before = delay
            if self.spent_s < _MAX_SHARE * (now - began) + 0.002 and (in_wait or count % 16 == 0):
                start = time.thread_time()
                self._sample(in_wait=in_wait)
                self.spent_s += time.thread_time() - start

    def _sample(self, *, in_wait: bool) -> None:
        pid, samples = os.getpid(), self.samples
        if not in_wait:
            frame = sys._current_frames().get(self._main)  # noqa: SLF001  # the documented way to see other threads
            samples.work[self._classifier.activity(frame, "running")] += 1
            return
        ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
        # The kernel's states first, while this thread does not hold the GIL: afterwards all others wait for it.
        states = {ident: kernel_state(pid, tid) for ident, tid in ids.items() if tid is not None}
        frames: dict[int, FrameType] = sys._current_frames()  # noqa: SLF001
        if not self.in_wait:  # the wait has ended meanwhile
            return
        samples.waits += 1
        busy = 0
        for ident, frame in frames.items():
            if ident == self._thread.ident:
                continue
            activity = self._classifier.activity(frame, states.get(ident, "unknown"))
            if ident == self._main:
                samples.main[activity] += 1
            elif activity != "idle":
                samples.producers[activity] += 1
                busy += 1
            blocked = activity in ("idle", "sleep", "storage", "network")
            samples.runnable += not blocked
        samples.loader_threads = max(samples.loader_threads, busy)
        if not self.workers_sample_themselves:
            self._sample_children()

    def _sample_children(self) -> None:
        now = time.perf_counter()
        if now - self._children_at > _CHILDREN_S:
            self._children, self._children_at = descendants(os.getpid()), now
        self.samples.workers = max(self.samples.workers, len(self._children))
        for child in self._children:
            state = kernel_state(child, child)
            activity = _PROCESS_ACTIVITIES.get(state, "idle")
            self.samples.producers[activity] += 1


_PROCESS_ACTIVITIES: Final = {
    "running": "cpu",
    "disk": "storage",
    "file": "storage",
    "socket": "network",
    "sleep": "sleep",
}


def _run_delay_s() -> float:
    """Seconds that the calling thread has waited for a core."""
    words = read_text(f"/proc/self/task/{threading.get_native_id()}/schedstat").split()
    return int(words[1]) / 1e9 if len(words) > 1 else 0.0
