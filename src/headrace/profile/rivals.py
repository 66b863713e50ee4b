"""naive.json -> the rows of the table "naive against headrace", ratios included.

{"what": "...", "notes": ["..."], "epoch_tokens": 9870000, "once_s": 6.1,
 "naive":    {"first_batch_s": 3.2,  "tokens_per_s": 410000, "peak_bytes": 820000000},
 "headrace": {"first_batch_s": 0.01, "tokens_per_s": 3.1e8,  "peak_bytes": 320000000}}
"""

# ruff: noqa: RUF001, RUF002 - the multiplication sign is meant

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.profile.where import duration, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalRow:
    """One line of the table, as text."""

    what: str
    naive: str
    ours: str
    ratio: str


def rows(naive: Mapping[str, Any]) -> list[RivalRow]:
    """The table's lines; those whose numbers are missing are left out.

    >>> measured = {"first_batch_s": 3.0, "tokens_per_s": 4e5}, {"first_batch_s": 0.01, "tokens_per_s": 2e8}
    >>> for row in rows({"naive": measured[0], "headrace": measured[1], "once_s": 6.0, "epoch_tokens": 1e7}):
    ...     print(row.what, "|", row.naive, "|", row.ours, "|", row.ratio)
    time to first batch | 3.0 s | 10 ms | 300 × sooner
    tokens/s | 400 thousand | 200 million | 500 × faster
    tokenizing | again in every epoch | once: 6.0 s | paid back after 24 % of an epoch
    """
    theirs, ours = naive.get("naive") or {}, naive.get("headrace") or {}
    found: list[RivalRow] = []
    if (slow := _positive(theirs, "first_batch_s")) and (fast := _positive(ours, "first_batch_s")):
        found.append(
            RivalRow(
                what="time to first batch",
                naive=duration(slow),
                ours=duration(fast),
                ratio=times(slow / fast, "sooner", "later"),
            )
        )
    if (slow := _positive(theirs, "tokens_per_s")) and (fast := _positive(ours, "tokens_per_s")):
        found.append(
            RivalRow(
                what="tokens/s", naive=big(slow), ours=big(fast), ratio=times(fast / slow, "faster", "slower")
            )
        )
    if (large := _positive(theirs, "peak_bytes")) and (small := _positive(ours, "peak_bytes")):
        found.append(
            RivalRow(
                what="peak memory of the process",
                naive=megabytes(large),
                ours=megabytes(small),
                ratio=times(large / small, "less", "more"),
            )
        )
    if (large := _positive(theirs, "data_bytes")) and (small := _positive(ours, "data_bytes")):
        found.append(
            RivalRow(
                what="of it above the empty process",
                naive=megabytes(large),
                ours=megabytes(small),
                ratio=times(large / small, "less", "more"),
            )
        )
    if once := _positive(naive, "once_s"):
        found.append(
            RivalRow(
                what="tokenizing",
                naive="again in every epoch",
                ours=f"once: {duration(once)}",
                ratio=_paid_back(naive, once),
            )
        )
    return found


def _paid_back(naive: Mapping[str, Any], once_s: float) -> str:
    """After how much training the ingest has cost less than tokenizing on the way."""
    slow = _positive(naive.get("naive") or {}, "tokens_per_s")
    fast = _positive(naive.get("headrace") or {}, "tokens_per_s")
    tokens = _positive(naive, "epoch_tokens")
    if not (slow and fast and tokens) or fast <= slow:
        return ""
    epochs = once_s / (tokens / slow - tokens / fast)
    return (
        f"paid back after {percent(epochs)} of an epoch"
        if epochs < 1
        else f"paid back after {epochs:.1f} epochs"
    )


def times(ratio: float, better: str, worse: str) -> str:
    """A ratio in words: 300.4 -> "300 × sooner", 0.5 -> "2.0 × later"."""
    word = better if ratio >= 1 else worse
    ratio = ratio if ratio >= 1 else 1 / ratio
    return f"{ratio:,.0f} × {word}" if ratio >= 9.95 else f"{ratio:.1f} × {word}"


def big(value: float) -> str:
    """A count as people read it: 412,345 -> "412 thousand"."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}"


def megabytes(value: float) -> str:
    """Bytes in kB, MB or GB, powers of ten."""
    if value >= 1e9:
        return f"{value / 1e9:.2f} GB"
    if value < 0.95e6:
        return f"{value / 1e3:.0f} kB"
    return f"{value / 1e6:.0f} MB" if value >= 99.5e6 else f"{value / 1e6:.1f} MB"


def _positive(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
