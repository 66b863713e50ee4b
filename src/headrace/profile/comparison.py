"""naive.json -> the rows of the table that compares the naive loader with headrace's.

{"what": "...", "notes": ["..."], "epoch_tokens": 9870000, "once_s": 6.1,
 "naive":    {"first_batch_s": 3.2,  "tokens_per_s": 410000, "peak_bytes": 820000000},
 "headrace": {"first_batch_s": 0.01, "tokens_per_s": 3.1e8,  "peak_bytes": 320000000}}
"""

# ruff: noqa: RUF002 - the multiplication sign is meant

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.formatting import approximate, duration, nbytes, percent, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One row of the table, as text."""

    quantity: str
    naive: str
    headrace: str
    ratio: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    key: str
    label: str
    text: Callable[[float], str]
    better: str
    worse: str
    more_is_better: bool = False


_QUANTITIES = (
    _Quantity(
        key="first_batch_s", label="time to first batch", text=duration, better="sooner", worse="later"
    ),
    _Quantity(
        key="tokens_per_s",
        label="tokens/s",
        text=approximate,
        better="faster",
        worse="slower",
        more_is_better=True,
    ),
    _Quantity(key="peak_bytes", label="peak memory of the process", text=nbytes, better="less", worse="more"),
    _Quantity(
        key="data_bytes", label="of it above the empty process", text=nbytes, better="less", worse="more"
    ),
)


def comparison_rows(measured: Mapping[str, Any]) -> list[ComparisonRow]:
    """The table's rows; those whose numbers are missing are left out.

    >>> measured = {"first_batch_s": 3.0, "tokens_per_s": 4e5}, {"first_batch_s": 0.01, "tokens_per_s": 2e8}
    >>> for row in comparison_rows(
    ...     {"naive": measured[0], "headrace": measured[1], "once_s": 6.0, "epoch_tokens": 1e7}
    ... ):
    ...     print(row.quantity, "|", row.naive, "|", row.headrace, "|", row.ratio)
    time to first batch | 3.0 s | 10 ms | 300 × sooner
    tokens/s | 400 thousand | 200 million | 500 × faster
    tokenizing | again in every epoch | once: 6.0 s | paid back after 24 % of an epoch
    """
    naive, ours = measured.get("naive") or {}, measured.get("headrace") or {}
    rows: list[ComparisonRow] = []
    for quantity in _QUANTITIES:
        theirs, own = _positive(naive, quantity.key), _positive(ours, quantity.key)
        if theirs and own:
            gain = own / theirs if quantity.more_is_better else theirs / own
            rows.append(
                ComparisonRow(
                    quantity=quantity.label,
                    naive=quantity.text(theirs),
                    headrace=quantity.text(own),
                    ratio=ratio(gain, quantity.better, quantity.worse),
                )
            )
    if once := _positive(measured, "once_s"):
        rows.append(
            ComparisonRow(
                quantity="tokenizing",
                naive="again in every epoch",
                headrace=f"once: {duration(once)}",
                ratio=_paid_back(measured, once),
            )
        )
    return rows


def _paid_back(measured: Mapping[str, Any], once_s: float) -> str:
    """How many epochs it takes until one ingest has cost less than tokenizing in every epoch."""
    slow = _positive(measured.get("naive") or {}, "tokens_per_s")
    fast = _positive(measured.get("headrace") or {}, "tokens_per_s")
    tokens = _positive(measured, "epoch_tokens")
    if not (slow and fast and tokens) or fast <= slow:
        return ""
    epochs = once_s / (tokens / slow - tokens / fast)
    amount = f"{percent(epochs)} of an epoch" if epochs < 1 else f"{epochs:.1f} epochs"
    return f"paid back after {amount}"


def _positive(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
