"""The share of waiting and the evidence -> the resource that is at its limit, and why it is that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from headrace.diagnosis.activity import CPU_ACTIVITIES
from headrace.diagnosis.evidence import Evidence
from headrace.formatting import percent
from headrace.profile import ConfidenceInterval

Limiter = Literal[
    "model",
    "unclear",
    "storage",
    "network",
    "decompression",
    "parsing",
    "tokenizing",
    "loader_cpu",
    "gil",
    "hand_over",
    "device_copy",
    "workers",
    "latency",
]

STALL: Final = 0.02
"""A lower bound of the stall below this is no stall: the model is at its limit."""

PHRASES: Final[dict[str, str]] = {
    "model": "the model",
    "unclear": "something that the samples do not name",
    "storage": "storage: reading from disk",
    "network": "the network",
    "decompression": "decompression on the CPU",
    "parsing": "parsing on the CPU",
    "tokenizing": "tokenizing on the CPU",
    "loader_cpu": "the loader's own work on the CPU",
    "gil": "the GIL: Python threads take turns",
    "hand_over": "handing batches over from worker processes",
    "device_copy": "the copy from host to device",
    "workers": "too few workers: all work while cores are left",
    "latency": "waiting inside the loader (sleeping or polling)",
}

MIN_SAMPLES: Final = 5
"""Samples in waits from which on they name the limiter."""
_GIL: Final = 0.3
"""Threads that wait for the GIL in fewer samples than this are held up by their own work."""
_AS_LIMITER: Final = {"cpu": "loader_cpu", "sleep": "latency"}
"""Activities that are limiters by another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The limiter, how sure it is, and its share of the waiting time."""

    limiter: Limiter
    share: ConfidenceInterval
    """Share of the waiting time that it takes."""
    reason: str
    work: str = ""
    """What the limiting threads or workers do most: an activity."""


def find_limiter(stall: ConfidenceInterval, evidence: Evidence) -> Finding:
    """The resource at its limit.

    The loop's own thread says first: where it works itself in `next`, its activity is the limiter; where it waits
    for others, theirs is. Threads that work but take turns at the GIL, and workers that all work while cores are
    idle, are not limited by the resource that they work on.
    """
    whole = ConfidenceInterval(value=1.0, low=0.0, high=1.0)
    if stall.low <= STALL:
        sure = stall.high < 0.05
        reason = (
            f"at most {percent(stall.high)} of a step waits for data"
            if sure
            else f"the interval, {percent(stall.low)} to {percent(stall.high)}, includes no wait at all"
        )
        copying = evidence.work.get("device_copy", 0.0)
        if copying > 0.1:
            return Finding(
                limiter="device_copy",
                share=_share(copying, max(evidence.samples, 10)),
                reason=f"{percent(copying)} of the loop's own time is in copies to the device",
                work="device_copy",
            )
        return Finding(limiter="model" if sure else "unclear", share=whole, reason=reason)
    if evidence.samples < MIN_SAMPLES:
        return _unseen(evidence)
    waiting = evidence.main.get("idle", 0.0)
    if _takes_turns(evidence):
        others = 1 - 1 / max(evidence.runnable_threads, 1.0)
        share = evidence.gil_turns * others if is_short_of_cores(evidence) else evidence.gil_wait
        return Finding(
            limiter="gil",
            share=_share(share, evidence.samples),
            reason=f"{evidence.runnable_threads:.1f} Python threads had work to do at once, and one waited for the GIL "
            f"in {percent(evidence.gil_turns)} of the samples",
            work=_top(evidence.producers if waiting > 0.5 else evidence.main)[0],
        )
    finding = _own_thread(evidence) if waiting < 0.5 else _others(evidence)
    if is_short_of_cores(evidence) and finding.work in CPU_ACTIVITIES:
        reason = (
            f"{finding.reason}; {percent(evidence.core_wait)} of the time that they had work they waited for a core, "
            f"while other processes used {evidence.other_cores:.1f} of {evidence.cores}"
        )
        return replace(finding, reason=reason)
    return finding


def _unseen(evidence: Evidence) -> Finding:
    """The limiter of waits that hardly any sample fell into: by counters, which see every wait.

    Late probes waited for the GIL during a wait of the loop that was over when the GIL was free to look.
    """
    blocked = evidence.late_ticks >= 5 and (evidence.gil_wait > _GIL or evidence.late_others > 0.5)
    if blocked or (evidence.late_ticks >= 10 and _takes_turns(evidence)):
        return Finding(
            limiter="gil",
            share=_share(max(evidence.gil_wait, 0.5), evidence.late_ticks),
            reason=f"hardly any sample fell into waits, as the GIL was held in them at {evidence.late_ticks} probes",
        )
    whole = ConfidenceInterval(value=1.0, low=0.0, high=1.0)
    few = f"{evidence.samples} samples fell into {evidence.waits_s:.1f} s of waits, and {MIN_SAMPLES} are needed"
    if evidence.waits_cpu > 0.7:
        reason = (
            f"the loop's own thread had work for a core in {percent(evidence.waits_cpu)} of its waits; {few}"
        )
        return Finding(limiter="loader_cpu", share=whole, reason=f"{reason} to name the work", work="cpu")
    return Finding(
        limiter="unclear", share=whole, reason=f"too few samples fell into waits: {few}; measure more steps"
    )


def _takes_turns(evidence: Evidence) -> bool:
    """Whether the threads that the loop depends on wait for one another at the GIL.

    On a machine without a free core the time that they wait is mostly for a core; what they wait for when they are
    looked at still shows the GIL.
    """
    if sum(evidence.main.get(name, 0.0) for name in ("storage", "network", "sleep", "hand_over")) > 0.5:
        return False
    seen = evidence.gil_turns > _GIL and evidence.gil_threads >= 2
    return seen and (evidence.gil_wait > 0.1 or is_short_of_cores(evidence))


def is_short_of_cores(evidence: Evidence) -> bool:
    """Whether other processes take cores that this job has work for."""
    return evidence.core_wait > 0.2 and evidence.other_cores > 0.3


def _own_thread(evidence: Evidence) -> Finding:
    shares = {k: v for k, v in evidence.main.items() if k != "idle"}
    if _takes_over(evidence):
        shares["hand_over"] += shares.pop("cpu", 0.0)
    activity, share = _top(shares)
    return Finding(
        limiter=cast("Limiter", _AS_LIMITER.get(activity, activity)),
        share=_share(share, evidence.samples),
        reason=f"the loop's own thread spent {percent(share)} of its waits so",
        work=activity,
    )


def _takes_over(evidence: Evidence) -> bool:
    """Whether the loop's own work in waits is the other end of what its workers do: batches are handed over.

    Building and freeing the many objects of a batch is work of no name, beside reading them from the pipe.
    """
    passing = evidence.main.get("hand_over", 0.0)
    working = {name: share for name, share in evidence.producers.items() if name != "idle"}
    is_large = passing > 0.1 and evidence.main.get("cpu", 0.0) <= 2 * passing
    return evidence.workers > 0 and is_large and _top(working)[0] == "hand_over"


def _others(evidence: Evidence) -> Finding:
    working = {name: share for name, share in evidence.producers.items() if name != "idle"}
    idle = evidence.producers.get("idle", 0.0)
    passing = evidence.main.get("hand_over", 0.0)
    if not working or (idle > 0.7 and passing > 0.15):
        if passing > 0.1:
            return _own_thread(evidence)
        return Finding(
            limiter="unclear",
            share=ConfidenceInterval(value=1.0, low=0.0, high=1.0),
            reason="threads and workers were idle while the loop waited",
        )
    activity, share = _top(working)
    share /= sum(working.values())
    cpu = sum(working.get(name, 0.0) for name in CPU_ACTIVITIES) / sum(working.values())
    by = "worker processes" if evidence.workers else "the loader's threads"
    # On a machine that others use too, cores that this job does not use count: a further worker would get its share.
    unused = evidence.cores - evidence.own_cores if 0 < evidence.workers < evidence.cores else 0.0
    if cpu > 0.6 and idle < 0.25 and max(evidence.idle_cores, unused - 0.15) > 0.45 and evidence.cores > 1:
        return Finding(
            limiter="workers",
            share=_share(cpu, evidence.samples),
            reason=f"{by} worked {percent(1 - idle)} of the waits, and {evidence.idle_cores:.1f} of "
            f"{evidence.cores} cores were idle, {evidence.own_cores:.1f} used by this job",
            work=activity,
        )
    return Finding(
        limiter=cast("Limiter", _AS_LIMITER.get(activity, activity)),
        share=_share(share, evidence.samples),
        reason=f"{by} spent {percent(share)} of their work in waits so",
        work=activity,
    )


def _top(shares: Mapping[str, float]) -> tuple[str, float]:
    if not shares:
        return "cpu", 0.0
    name = max(shares, key=lambda one: shares[one])
    return name, shares[name]


def _share(share: float, samples: int) -> ConfidenceInterval:
    """Wilson's interval of a share of samples."""
    n, z2 = max(samples, 1), 1.96**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = 1.96 / (1 + z2 / n) * ((share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5)
    return ConfidenceInterval(value=share, low=max(0.0, centre - reach), high=min(1.0, centre + reach))
