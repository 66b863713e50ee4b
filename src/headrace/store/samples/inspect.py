"""An open store of samples -> a summary of it: counts, columns, shards, and some rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.store.samples.features import Tokens, features_to_json
from headrace.store.samples.store import SampleStore
from headrace.store.samples.table import SampleShardEntry

SHOWN_SHARDS = 20
PADDING_BATCH = 64
_RUNS, _RUN_ROWS = 32, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledRow:
    """A row and its number."""

    row: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceReport:
    """Lengths of the columns of tokens, of some rows spread over the store."""

    rows: int
    """Rows that were looked at."""
    mean_tokens: Mapping[str, float]
    """Column -> mean of its lengths."""
    longest: Mapping[str, int]
    padding_share: float
    """Share of padding in batches of `PADDING_BATCH` of them in random order."""
    padding_share_by_length: float
    """The same in batches of similar length; see `ReadOptions.group_by_length`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """A summary of a store of samples."""

    url: str
    snapshot: int
    fingerprint: str
    rows: int
    nbytes: int
    """Stored bytes of all shards."""
    bytes_per_row: float
    codec: str
    features: Mapping[str, Any]
    """Name -> type of each column, as JSON."""
    num_shards: int
    shards: tuple[SampleShardEntry, ...]
    """The first `SHOWN_SHARDS`."""
    samples: tuple[SampledRow, ...]
    sequences: SequenceReport | None = None
    """None where no column is of tokens."""


def inspect_samples(store: SampleStore, *, samples: int = 3, seed: int = 0) -> SampleReport:
    """Summarize a store of samples.

    Args:
        store: an open store.
        samples: rows to read, spread over the store; the same for the same seed.
        seed: chooses the rows.

    Raises:
        ShardError: a block that was sampled is damaged or missing.
    """
    count = min(samples, store.num_rows)
    rows = np.sort(np.random.default_rng(seed).choice(store.num_rows, size=count, replace=False)).tolist()
    return SampleReport(
        url=store.url,
        snapshot=store.snapshot,
        fingerprint=store.fingerprint,
        rows=store.num_rows,
        nbytes=store.nbytes,
        bytes_per_row=store.nbytes / max(1, store.num_rows),
        codec=store.codec,
        features=features_to_json(store.features),
        num_shards=store.num_shards,
        shards=tuple(store.shards[i] for i in range(min(SHOWN_SHARDS, store.num_shards))),
        samples=tuple(SampledRow(row=row, values=store[row]) for row in rows),
        sequences=_sequences(store, seed),
    )


def _sequences(store: SampleStore, seed: int) -> SequenceReport | None:
    names = [name for name, feature in store.features.items() if isinstance(feature, Tokens)]
    if not names or not store.num_rows:
        return None
    # Runs of neighbours: a block is read for many rows.
    starts = np.linspace(0, max(0, store.num_rows - _RUN_ROWS), _RUNS).astype(np.int64)
    rows = np.unique(starts[:, None] + np.arange(min(_RUN_ROWS, store.num_rows)))
    lengths = store.lengths(rows, names)
    return SequenceReport(
        rows=len(rows),
        mean_tokens=dict(zip(names, lengths.mean(axis=0).tolist(), strict=True)),
        longest=dict(zip(names, lengths.max(axis=0).tolist(), strict=True)),
        padding_share=_padding_share(np.random.default_rng(seed).permutation(lengths)),
        padding_share_by_length=_padding_share(lengths[np.argsort(lengths.sum(axis=1), kind="stable")]),
    )


def _padding_share(lengths: NDArray[np.int64]) -> float:
    """Share of padding of batches of successive rows."""
    places = 0
    for start in range(0, len(lengths), PADDING_BATCH):
        part = lengths[start : start + PADDING_BATCH]
        places += int(part.max(axis=0).sum()) * len(part)
    return 1 - int(lengths.sum()) / places if places else 0.0
