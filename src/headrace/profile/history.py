"""run.json of a run -> its history as rows of a table: changes at a start, steps that diverged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.formatting import count
from headrace.profile.run_files import RunFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """Something that happened to a run at a step."""

    step: int
    when: str
    """UTC; empty where it is not recorded."""
    what: str


def history_rows(run: RunFiles) -> list[HistoryRow]:
    """The branch that a run began as, its segments and divergences, by step; empty for a run that was never changed."""
    rows = []
    origin = run.run.get("branched_from")
    if isinstance(origin, Mapping):
        what = f"branch of {origin.get('run')}: weights, moments, position and step were kept"
        rows.append(HistoryRow(step=int(origin.get("step", 0)), when="", what=what))
    for segment in run.run.get("segments", ())[1:]:
        changed = segment.get("changed") or {}
        what = ", ".join(f"{name} {_value(old)} → {_value(new)}" for name, (old, new) in changed.items())
        rows.append(HistoryRow(step=segment["first_step"], when=str(segment.get("began", "")), what=what))
    for entry in run.run.get("divergences", ()):
        first, end = entry["rows"]
        if entry["action"] == "skip":
            what = f"diverged, its update was left out: {entry['reason']}"
        else:
            what = (
                f"diverged, went back to step {entry['after_step']:,} and around rows {first:,} to {end - 1:,}: "
                f"{entry['reason']}"
            )
        rows.append(HistoryRow(step=entry["step"], when=str(entry.get("when", "")), what=what))
    return sorted(rows, key=lambda row: row.step)


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return "none" if value is None else str(value)
