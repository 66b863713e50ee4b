"""An open store of samples -> a summary of it: counts, columns, shards, and some rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.store.samples.features import features_to_json
from headrace.store.samples.store import SampleStore
from headrace.store.samples.table import SampleShardEntry

SHOWN_SHARDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledRow:
    """A row and its number."""

    row: int
    values: Mapping[str, Any]


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
    )
