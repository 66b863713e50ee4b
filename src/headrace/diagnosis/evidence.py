"""Samples and counters of a measured loop -> the evidence for a verdict: shares of the waiting time, bytes, cores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.diagnosis.activity import CPU_ACTIVITIES
from headrace.diagnosis.kernel import Usage
from headrace.diagnosis.sampler import LoopSamples, WorkTime
from headrace.platform import available_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen beside the times; every figure is of the measured part of the loop."""

    samples: int = 0
    """Samples in waits."""
    main: Mapping[str, float] = field(default_factory=dict)
    """The loop's own thread in waits: share of samples by activity."""
    producers: Mapping[str, float] = field(default_factory=dict)
    """Other threads and worker processes in waits: share of their samples by activity."""
    work: Mapping[str, float] = field(default_factory=dict)
    """The loop's own thread outside waits: share of samples by activity."""
    gil_wait: float = 0.0
    """Share of their time in waits in which threads that had work, and did not wait for a core, waited for the GIL."""
    gil_turns: float = 0.0
    """Share of samples in waits at which a thread waited for the GIL and another Python thread had work, too."""
    gil_threads: int = 0
    """Python threads that were seen waiting for the GIL in more than a tenth of the samples in which they had work."""
    late_ticks: int = 0
    """Ticks that waited for the GIL while the loop waited for data, whose wait was over when the GIL was free."""
    late_others: float = 0.0
    """Share of these ticks at whose end another Python thread than the loop's had work."""
    runnable_threads: float = 0.0
    """Python threads of this process with work to do in waits, on average."""
    workers: int = 0
    """Worker processes."""
    loader_threads: int = 0
    """Other threads of this process that worked for the loader, the most at once."""
    waits_s: float = 0.0
    """Seconds that the loop's own thread waited, in all."""
    waits_cpu: float = 0.0
    """Share of these in which it was on a core itself, or waited for one: counted, not sampled."""
    wall_s: float = 0.0
    main_cpu_s: float = 0.0
    thread_cpu_s: Mapping[str, float] = field(default_factory=dict)
    """Processor seconds of each thread of this process that used some."""
    worker_cpu_s: Mapping[str, float] = field(default_factory=dict)
    """The same of each worker process."""
    disk_bytes: int = 0
    read_bytes: int = 0
    """Bytes read by system calls, from disk and from the page cache."""
    network_bytes: int = 0
    """Bytes that the machine received over networks, loopback included."""
    core_wait: float = 0.0
    """Share of the time in which threads and workers of this job had work and waited for a core."""
    other_cores: float = 0.0
    """Cores that other processes used, on average."""
    idle_cores: float = 0.0
    """Cores of the machine that were idle, on average."""
    cores: int = 1
    pressure: Mapping[str, float] = field(default_factory=dict)
    """Share of the time in which some task of the machine waited for "cpu", "io", "memory"."""
    queue_fill: float | None = None
    """Batches that were ready when the loop asked, on average; None where the loader does not say."""

    @property
    def own_cores(self) -> float:
        """Cores that this process and its workers used, on average."""
        if not self.wall_s:
            return 0.0
        return (sum(self.thread_cpu_s.values()) + sum(self.worker_cpu_s.values())) / self.wall_s

    @property
    def page_cache_hits(self) -> float | None:
        """Share of the bytes read that did not come from disk; None where nothing was read."""
        if not self.read_bytes:
            return None
        return max(0.0, 1 - self.disk_bytes / self.read_bytes)


def collect_evidence(
    samples: LoopSamples,
    inside: Counter[str],
    before: Usage,
    after: Usage,
    *,
    wall_s: float,
    queue_fill: float | None,
) -> Evidence:
    """The evidence of the time between two readings of the counters.

    Args:
        samples: what the sampling thread saw.
        inside: what sampling threads in worker processes saw; empty without such.
        before: counters at the beginning.
        after: counters at the end.
        wall_s: seconds between.
        queue_fill: batches that were ready, on average.
    """
    threads = {
        name: seconds - before.threads_s.get(name, 0.0)
        for name, seconds in after.threads_s.items()
        if seconds - before.threads_s.get(name, 0.0) >= 0.01
    }
    workers = {str(pid): seconds - before.workers_s.get(pid, 0.0) for pid, seconds in after.workers_s.items()}
    own_s = sum(threads.values()) + sum(workers.values())
    delays_s = sum(
        max(0.0, seconds - before.core_wait_s.get(one, 0.0)) for one, seconds in after.core_wait_s.items()
    )
    return Evidence(
        samples=samples.waits,
        main=_shares(_by_resource(samples.main, blocked=samples.main_wait.blocked_share())),
        producers=_shares(_by_resource(inside or samples.producers, blocked=samples.others.blocked_share())),
        work=_shares(samples.work),
        gil_wait=_gil_wait(samples),
        gil_turns=samples.turns / samples.waits if samples.waits else 0.0,
        gil_threads=sum(count > 0.1 * samples.working[one] for one, count in samples.gil.items()),
        late_ticks=samples.late_ticks,
        late_others=samples.late_others / samples.late_ticks if samples.late_ticks else 0.0,
        waits_s=samples.main_wait.wall_s,
        waits_cpu=_share_of_wait(samples.main_wait),
        runnable_threads=samples.runnable / samples.waits if samples.waits else 0.0,
        workers=max(samples.workers, len(workers)),
        loader_threads=samples.loader_threads,
        wall_s=wall_s,
        main_cpu_s=next((s for name, s in threads.items() if name.endswith(f"({os.getpid()})")), 0.0),
        thread_cpu_s=threads,
        worker_cpu_s=workers,
        disk_bytes=max(0, after.disk_bytes - before.disk_bytes),
        read_bytes=max(0, after.read_bytes - before.read_bytes),
        network_bytes=max(0, after.network_bytes - before.network_bytes),
        core_wait=delays_s / (own_s + delays_s) if own_s + delays_s else 0.0,
        other_cores=max(0.0, after.busy_s - before.busy_s - own_s) / wall_s if wall_s else 0.0,
        idle_cores=max(0.0, after.idle_s - before.idle_s) / wall_s if wall_s else 0.0,
        cores=available_cores(),
        pressure={
            name: min(1.0, max(0.0, seconds - before.pressure_s.get(name, 0.0)) / wall_s) if wall_s else 0.0
            for name, seconds in after.pressure_s.items()
        },
        queue_fill=queue_fill,
    )


def _by_resource(counts: Counter[str], *, blocked: float) -> Counter[str]:
    """Samples in a read that is not blocked, as storage where its threads are blocked most of the time, else as work.

    A fast disk blocks a thread often and shortly; on a busy machine it is then mostly seen waiting for a core.
    """
    found = Counter(counts)
    reading = found.pop("reading", 0)
    if reading:
        found["storage" if blocked > 0.5 else "cpu"] += reading
    return found


def _share_of_wait(waits: WorkTime) -> float:
    """Share of the waits in which the loop's own thread was on a core, or waited for one."""
    return min(1.0, (waits.cpu_s + waits.core_wait_s) / waits.wall_s) if waits.wall_s else 0.0


def _gil_wait(samples: LoopSamples) -> float:
    """Share of the time in waits in which the threads that the loop depends on were blocked, although they had work.

    The loop's own thread counts where it works itself; where it waits for others, they do.
    """
    main = sum(samples.main.values())
    if main < 5:  # waits too short to be seen
        return samples.main_wait.blocked_share()
    working = sum(samples.main[name] for name in CPU_ACTIVITIES) / main
    if working < 0.5:
        return samples.others.blocked_share()
    return samples.main_wait.blocked_share(working)


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.most_common()} if total else {}
