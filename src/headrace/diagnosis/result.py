"""Interval, limiter, evidence and advice -> a verdict, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headrace.diagnosis.advice import Advice
from headrace.diagnosis.evidence import Evidence
from headrace.diagnosis.limiter import PHRASES, STALL, Finding
from headrace.diagnosis.model_work import ModelWork
from headrace.formatting import duration, nbytes, percent
from headrace.profile import ConfidenceInterval


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Whether a loop is bound by its data or by its model, by how much, and what to change."""

    stall: ConfidenceInterval
    """Share of a step that would be saved if data were free."""
    waits: ConfidenceInterval
    """Share of a step that passes in `next` on the loader."""
    step_s: float
    """Mean duration of a step as the loop runs."""
    finding: Finding
    method: str
    """"blocks": live steps were compared with steps whose data was in memory; "waits": waits were added up."""
    note: str = ""
    """Why the method is not the default one, or what limits the result."""
    steps: int = 0
    """Live steps that count."""
    free_blocks: int = 0
    first_wait_s: float = 0.0
    """The longest first wait of a pass: starting workers, opening files."""
    cost: float = 0.0
    """Share of the loop's time that measuring took, as far as it is known."""
    evidence: Evidence
    advice: tuple[Advice, ...] = ()
    model: ModelWork | None = None

    @property
    def speedup(self) -> ConfidenceInterval:
        """How many times faster the loop would be if data were free: the ceiling."""
        return ConfidenceInterval(
            value=1 / (1 - min(self.stall.value, 0.999)),
            low=1 / (1 - min(self.stall.low, 0.999)),
            high=1 / (1 - min(self.stall.high, 0.999)),
        )

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        stall, limiter = self.stall, self.finding.limiter
        if limiter in ("model", "unclear") and stall.low <= STALL:
            if stall.high < 0.05:
                return (
                    f"The model is the limit: at most {percent(stall.high)} of a step of {duration(self.step_s)} "
                    "waits for data, so a faster loader would gain nothing."
                )
            return (
                f"Not clear yet: a step of {duration(self.step_s)} waits for data between {percent(stall.low)} and "
                f"{percent(stall.high)} of its time; measure more steps."
            )
        if limiter == "device_copy" and stall.low <= STALL:
            return f"Data arrives in time, but {self.finding.reason}."
        return (
            f"{percent(stall.value)} of a step of {duration(self.step_s)} waits for data (95 % interval "
            f"{percent(stall.low)} to {percent(stall.high)}), because of {PHRASES[limiter]}; with free data the loop "
            f"would be {self.speedup.value:.2f} times as fast ({self.speedup.low:.2f} to {self.speedup.high:.2f})."
        )

    def to_text(self) -> str:
        """The verdict, its evidence and the advice, a few lines."""
        evidence = self.evidence
        lines = [self.sentence, f"  why: {self.finding.reason}."]
        compared = f", {self.free_blocks} blocks with free data" if self.method == "blocks" else ""
        lines.append(
            f"  measured: {self.steps} steps{compared}; waits in next() {percent(self.waits.value)}"
            f"{f'; {self.note}' if self.note else ''}."
        )
        if evidence.wall_s:
            lines.append(f"  seen: {describe_evidence(evidence)}.")
        lines += [f"  {number}. {one.to_text()}" for number, one in enumerate(self.advice, start=1)]
        if self.model is not None:
            lines.append(f"  model: {self.model.to_text()}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "sentence": self.sentence,
            "limiter": self.finding.limiter,
            "stall": asdict(self.stall),
            "waits": asdict(self.waits),
            "speedup": asdict(self.speedup),
            "step_s": self.step_s,
            "reason": self.finding.reason,
            "work": self.finding.work,
            "limiter_share": asdict(self.finding.share),
            "method": self.method,
            "note": self.note,
            "steps": self.steps,
            "free_blocks": self.free_blocks,
            "first_wait_s": self.first_wait_s,
            "cost": self.cost,
            "evidence": {**asdict(self.evidence), "page_cache_hits": self.evidence.page_cache_hits},
            "advice": [asdict(one) for one in self.advice],
            "model": None if self.model is None else asdict(self.model),
        }


def describe_evidence(evidence: Evidence) -> str:
    """The evidence in words."""
    wall_s = evidence.wall_s
    parts = [f"{evidence.idle_cores:.1f} of {evidence.cores} cores idle"]
    if evidence.workers:
        busy = sum(evidence.worker_cpu_s.values()) / wall_s
        parts.append(f"{evidence.workers} worker processes used {busy:.1f} cores")
    if evidence.loader_threads:
        parts.append(f"up to {evidence.loader_threads} loader threads at work")
    if evidence.disk_bytes:
        parts.append(f"{nbytes(evidence.disk_bytes / wall_s)}/s from disk")
    hits = evidence.page_cache_hits
    if hits is not None and evidence.disk_bytes:
        parts.append(f"{percent(hits)} of bytes read were in the page cache")
    if evidence.network_bytes / wall_s > 1e5:
        parts.append(f"{nbytes(evidence.network_bytes / wall_s)}/s from networks")
    parts += [
        f"{name} pressure {percent(share)}" for name, share in evidence.pressure.items() if share > 0.05
    ]
    if evidence.gil_turns > 0.05:
        parts.append(f"threads waited for the GIL in {percent(evidence.gil_turns)} of samples")
    if evidence.core_wait > 0.05:
        parts.append(f"waited for a core {percent(evidence.core_wait)} of the time with work")
    if evidence.queue_fill is not None:
        parts.append(f"{evidence.queue_fill:.1f} batches ready when asked")
    return ", ".join(parts)
