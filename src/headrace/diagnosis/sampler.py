"""Ticks of a thread -> while the loop waits for data: who works on what, and how long threads waited for the GIL.

A thread that waits for the GIL is seen doing so in the kernel. How late the sampling thread wakes would not show it:
the only thread that needs the GIL may hold it while it waits for a core that other processes use.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from headrace.diagnosis.activity import CPU_ACTIVITIES, StackClassifier
from headrace.diagnosis.kernel import (
    KernelState,
    OwnThreads,
    Schedule,
    ScheduleFile,
    descendants,
    kernel_state,
)
from headrace.diagnosis.pace import SamplingPace

_LATE_S: Final = 0.002
"""A tick that is later than this, waits for a core left out, waited for the GIL."""
_GAP_S: Final = 0.1
"""Two samples of a thread further apart than this say nothing about the time between."""
_CHILDREN_S: Final = 1.0
"""The list of worker processes is read again after so many seconds."""


@dataclass(slots=True, kw_only=True)
class WorkTime:
    """How threads spent their time."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    core_wait_s: float = 0.0
    """Seconds in which they waited for a core."""

    def add(self, wall_s: float, *, cpu_s: float, core_wait_s: float) -> None:
        """Count a stretch of one thread's time."""
        self.wall_s += wall_s
        self.cpu_s += cpu_s
        self.core_wait_s += core_wait_s

    def blocked_share(self, working: float = 1.0) -> float:
        """Share of the time in which they were blocked although they had work, waits for a core left out.

        Args:
            working: share of the time in which they had work.
        """
        blocked_s = working * self.wall_s - self.cpu_s - self.core_wait_s
        total_s = blocked_s + self.cpu_s
        return min(1.0, blocked_s / total_s) if blocked_s > 0 else 0.0


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
    main_wait: WorkTime = field(default_factory=WorkTime)
    """Time of the loop's own thread in waits."""
    others: WorkTime = field(default_factory=WorkTime)
    """Time of other Python threads between samples that both saw them working on a core."""
    working: Counter[int] = field(default_factory=Counter)
    """Samples in waits at which each Python thread had work to do."""
    gil: Counter[int] = field(default_factory=Counter)
    """Samples in waits at which each Python thread waited for the GIL."""
    late_ticks: int = 0
    """Ticks that waited for the GIL during a wait of the loop that was over when the GIL was free."""
    late_others: int = 0
    """Late ticks at whose end another Python thread than the loop's had work."""
    turns: int = 0
    """Samples in waits at which a Python thread waited for the GIL and another, too, had work to do."""
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
        self.pace = SamplingPace()
        self._main = threading.get_ident()
        self._threads = OwnThreads()
        self._main_schedule = ScheduleFile(threading.get_native_id())
        self._wait_began: tuple[float, float, float] | None = None
        """Clock, processor seconds and seconds without a core of the loop's thread when its wait began."""
        self._wait_over_s = 0.0
        self._last: dict[int, tuple[float, Schedule]] = {}
        """For each other thread: when it was last seen working, and its counters then."""
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
        self._main_schedule.close()

    def set_waiting(self, waiting: bool) -> None:
        """The loop begins or ends to wait for its loader; times count where its own thread says so."""
        self.in_wait = waiting
        if threading.get_ident() != self._main:
            return
        times = time.perf_counter(), time.thread_time(), self._main_schedule.read().core_wait_s
        if self._wait_began is not None and not waiting:
            wall_s, cpu_s, core_wait_s = (
                now - then for now, then in zip(times, self._wait_began, strict=True)
            )
            self._wait_over_s = times[0]
            self.samples.main_wait.add(wall_s, cpu_s=cpu_s, core_wait_s=core_wait_s)
        self._wait_began = times if waiting else None

    def _run(self) -> None:
        began_s, count, pace = time.perf_counter(), 0, self.pace
        schedule = ScheduleFile(threading.get_native_id())
        while not self._stop.is_set():
            start_s, core_wait_s = time.perf_counter(), schedule.read().core_wait_s
            pause_s = pace.pause_s(elapsed_s=start_s - began_s)
            if self._stop.wait(pause_s):
                break
            count += 1
            in_wait, due_s = self.in_wait, start_s + pause_s
            late_s = time.perf_counter() - due_s - (schedule.read().core_wait_s - core_wait_s)
            if not in_wait and self._wait_over_s > due_s and late_s > _LATE_S:
                self.samples.late_ticks += 1
                self.samples.late_others += self._are_others_busy()
            if in_wait or count % 16 == 0:
                self._sample(in_wait=in_wait)
            core_wait_s = schedule.read().core_wait_s - core_wait_s
            pace.add(time.perf_counter() - due_s - core_wait_s, samples=self.samples.waits)
        schedule.close()
        self._threads.close()

    def _are_others_busy(self) -> bool:
        mine = (self._main, self._thread.ident)
        others = [one.native_id for one in threading.enumerate() if one.ident not in mine]
        return any(self._threads.state(tid) in ("gil", "running") for tid in others if tid is not None)

    def _sample(self, *, in_wait: bool) -> None:
        samples = self.samples
        if not in_wait:
            frame = sys._current_frames().get(self._main)  # noqa: SLF001  # the documented way to see other threads
            samples.work[self._classifier.activity(frame, "running")] += 1
            return
        ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
        states: dict[int | None, KernelState] = {
            ident: self._threads.state(tid)
            for ident, tid in ids.items()
            if tid is not None and ident != self._thread.ident
        }
        frames: dict[int, FrameType] = sys._current_frames()  # noqa: SLF001
        if not self.in_wait:  # the wait has ended meanwhile
            return
        samples.waits += 1
        now_s, busy, runnable = time.perf_counter(), 0, 0
        for ident, frame in frames.items():
            if ident == self._thread.ident:
                continue
            activity = self._classifier.activity(frame, states.get(ident, "unknown"))
            if ident == self._main:
                samples.main[activity] += 1
            elif activity != "idle":
                samples.producers[activity] += 1
                busy += 1
                if activity in CPU_ACTIVITIES and (tid := ids.get(ident)) is not None:
                    self._count_time(tid, now_s)
            blocked = activity in ("idle", "sleep", "storage", "network")
            runnable += not blocked
            samples.working[ident] += not blocked
            samples.gil[ident] += not blocked and states.get(ident) == "gil"
        samples.runnable += runnable
        samples.turns += runnable >= 2 and "gil" in states.values()
        samples.loader_threads = max(samples.loader_threads, busy)
        if not self.workers_sample_themselves:
            self._sample_children()

    def _count_time(self, tid: int, now_s: float) -> None:
        """Count the time of a thread that works since its last sample, if that saw it working too."""
        schedule = self._threads.schedule(tid)
        before_s, before = self._last.get(tid, (0.0, schedule))
        self._last[tid] = now_s, schedule
        if now_s - before_s < _GAP_S:
            cpu_s, waited_s = schedule.cpu_s - before.cpu_s, schedule.core_wait_s - before.core_wait_s
            self.samples.others.add(now_s - before_s, cpu_s=cpu_s, core_wait_s=waited_s)

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
