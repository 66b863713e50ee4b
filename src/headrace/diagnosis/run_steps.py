"""A run directory -> its steps' balance of data and compute, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from headrace.diagnosis.advice import Advice, advise
from headrace.diagnosis.evidence import Evidence
from headrace.diagnosis.limiter import Finding, Limiter
from headrace.errors import ConfigError
from headrace.formatting import duration, percent
from headrace.profile import ConfidenceInterval, StepBalance, read_run_files, run_step_balance


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDiagnosis:
    """What a run's metrics say."""

    balance: StepBalance
    advice: tuple[Advice, ...]
    mfu: float | None
    """Median of the steps; None for hardware whose peak is not known."""

    def to_text(self) -> str:
        """The verdict, the parts of a step and the advice, a few lines."""
        lines = [self.balance.sentence]
        whole = sum(part.seconds for part in self.balance.parts) or 1.0
        parts = ", ".join(
            f"{part.name} {duration(part.seconds)} ({percent(part.seconds / whole)})"
            for part in self.balance.parts
        )
        lines.append(f"  a step: {parts}; mean of {self.balance.steps} steps")
        if self.mfu is not None:
            lines.append(f"  model: {percent(self.mfu)} of the devices' peak (MFU)")
        lines += [f"  {number}. {one.to_text()}" for number, one in enumerate(self.advice, start=1)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "sentence": self.balance.sentence,
            "limiter": self.balance.limiter,
            "stall": asdict(self.balance.waiting),
            "step_s": self.balance.step_s,
            "steps": self.balance.steps,
            "parts": [asdict(part) for part in self.balance.parts],
            "mfu": self.mfu,
            "advice": [asdict(one) for one in self.advice],
        }


def diagnose_run(run_dir: str | PathLike[str]) -> RunDiagnosis:
    """Whether a run is bound by its data or its model, from metrics.jsonl.

    Communication is part of compute: the metrics do not tell them apart.

    Raises:
        ConfigError: not a run, or one of too few timed steps.
    """
    run = read_run_files(run_dir)
    balance = run_step_balance(run)
    if balance is None:
        raise ConfigError(
            f"{run.path}: {len(run.steps)} steps are too few to say; expected at least 10 timed ones in metrics.jsonl"
        )
    limiter: Limiter = "model"
    if balance.limiter == "storage":
        limiter = "storage"
    elif balance.limiter == "decompression":
        limiter = "decompression"
    elif balance.limiter == "unclear" and balance.waiting.low > 0.02:
        limiter = "unclear"
    finding = Finding(
        limiter=limiter,
        share=ConfidenceInterval(value=1.0, low=0.5, high=1.0),
        reason="the loader's busiest stage",
    )
    known = sorted(step.mfu for step in run.steps if step.mfu is not None)
    return RunDiagnosis(
        balance=balance,
        advice=advise(balance.waiting, finding, Evidence()),
        mfu=known[len(known) // 2] if known else None,
    )
