"""A limiter, its evidence and its share -> what to change, ranked by the speed that it should gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace.diagnosis.activity import CPU_ACTIVITIES
from headrace.diagnosis.evidence import Evidence
from headrace.diagnosis.limiter import STALL, Finding, is_short_of_cores
from headrace.profile import ConfidenceInterval


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One change and what it should gain."""

    change: str
    gain: ConfidenceInterval
    """Speed-up less one: 0.25 is 25 % more steps a second."""
    lever: str = ""
    """The lever that `--try` can move: threads, codec, shuffle, cache, or empty."""

    def to_text(self) -> str:
        """One line."""
        return (
            f"{self.change}: about {100 * self.gain.value:.0f} % faster "
            f"({100 * self.gain.low:.0f} to {100 * self.gain.high:.0f} %)"
        )


@dataclass(frozen=True, slots=True)
class _Change:
    text: str
    low: float
    """Share of the limiter's waiting time that it removes at least,"""
    value: float
    """probably,"""
    high: float
    """at most: judgement, which `--try` replaces by a measurement."""
    lever: str = ""


_CHANGES: Final[dict[str, tuple[_Change, ...]]] = {
    "storage": (
        _Change("read from a faster disk, or let the page cache hold the data", 0.5, 0.9, 1.0, "cache"),
        _Change("more reads at once: more workers or threads", 0.0, 0.5, 1.0, "threads"),
        _Change('read blocks in order instead of single rows (shuffle="blocks")', 0.0, 0.5, 1.0, "shuffle"),
    ),
    "network": (
        _Change(
            "keep a copy on local disk (cache_dir): later epochs need no network", 0.5, 0.9, 1.0, "cache"
        ),
        _Change("more requests at once: more workers or threads", 0.0, 0.5, 1.0, "threads"),
        _Change("send fewer bytes: a stronger codec, token ids instead of text", 0.0, 0.4, 0.7, "codec"),
    ),
    "decompression": (
        _Change("a codec that decodes faster (lz4), or none, memory-mapped", 0.6, 0.9, 1.0, "codec"),
        _Change("decompress in more workers", 0.0, 0.5, 1.0, "threads"),
    ),
    "parsing": (
        _Change("parse once, before training: `headrace ingest` writes token ids", 0.8, 0.95, 1.0),
        _Change("parse in more workers", 0.0, 0.5, 1.0, "threads"),
    ),
    "tokenizing": (
        _Change("tokenize once, before training: `headrace ingest`", 0.8, 0.95, 1.0),
        _Change("tokenize in more workers", 0.0, 0.5, 1.0, "threads"),
    ),
    "loader_cpu": (
        _Change(
            "do the loader's work before training, or in workers beside the step", 0.3, 0.8, 1.0, "threads"
        ),
    ),
    "gil": (
        _Change("worker processes instead of threads for Python work", 0.3, 0.8, 1.0, "threads"),
        _Change("end other Python threads that run beside the loop", 0.0, 0.5, 1.0),
    ),
    "hand_over": (
        _Change(
            "load in this process, in threads, where the work releases the GIL", 0.3, 0.8, 1.0, "threads"
        ),
        _Change("hand over less: smaller types, one tensor for a batch", 0.0, 0.5, 0.9),
    ),
    "device_copy": (
        _Change("copy ahead from pinned memory (pin_memory=True, non_blocking=True)", 0.5, 0.9, 1.0),
    ),
    "latency": (_Change("make batches ahead: more workers or threads", 0.3, 0.9, 1.0, "threads"),),
    "unclear": (_Change("measure again with the loader's work in named functions", 0.0, 0.0, 1.0),),
}


def advise(stall: ConfidenceInterval, finding: Finding, evidence: Evidence) -> tuple[Advice, ...]:
    """Changes for a loop that waits for its data; none where it does not."""
    if finding.limiter == "model" or stall.low <= STALL:
        return ()
    found = []
    if finding.limiter == "workers":
        found.append(_more_workers(stall, evidence))
        changes = tuple(one for one in _CHANGES.get(finding.work, ()) if one.lever != "threads")
    else:
        changes = _CHANGES.get(finding.limiter, ())
    share = finding.share
    if is_short_of_cores(evidence) and finding.work in CPU_ACTIVITIES:
        used = f"{evidence.other_cores:.1f} of {evidence.cores}"
        more = evidence.core_wait
        text = f"cores of its own for the job: other processes use {used}"
        changes = (*changes, _Change(text, 0.0, more, 1.0))
    for change in changes:
        gain = ConfidenceInterval(
            value=_gain(stall.value * share.value * change.value),
            low=_gain(stall.low * share.low * change.low),
            high=_gain(stall.high * change.high),
        )
        found.append(Advice(change=change.text, gain=gain, lever=change.lever))
    return tuple(sorted(found, key=lambda one: -one.gain.value))


def _more_workers(stall: ConfidenceInterval, evidence: Evidence) -> Advice:
    """As many more workers as there are idle cores: loading takes that much less, and compute bounds the gain."""
    now = max(1, evidence.workers or evidence.loader_threads)
    more = max(1, round(evidence.idle_cores))

    def gain(share: float, scaling: float) -> float:
        # A step takes max(compute, load): load falls by the workers' ratio, compute stays.
        faster = max(1 - share, now / (now + more * scaling))
        return 1 / faster - 1

    return Advice(
        change=f"{now + more} workers instead of {now}",
        gain=ConfidenceInterval(
            value=gain(stall.value, 0.9), low=gain(stall.low, 0.5), high=gain(stall.high, 1.0)
        ),
        lever="threads",
    )


def _gain(saved: float) -> float:
    return 1 / (1 - min(saved, 0.99)) - 1
