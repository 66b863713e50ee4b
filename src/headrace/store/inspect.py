"""An open store -> what a person asks of it: how much, how large, which shards, and some rows as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from headrace.native import Target, native_target
from headrace.store.format import ShardEntry

if TYPE_CHECKING:
    from headrace.store.read import Store

SHOWN_SHARDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A row, read back as text."""

    row: int
    seq_len: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """What is in a store."""

    url: str
    snapshot: int
    fingerprint: str
    documents: int
    tokens: int
    nbytes: int
    """Stored bytes of all shards."""
    bytes_per_token: float
    tokens_per_document: float
    vocab_size: int
    tokenizer: str
    dtype: str
    codec: str
    num_shards: int
    shards: tuple[ShardEntry, ...]
    """The first `SHOWN_SHARDS`."""
    samples: tuple[Sample, ...]
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that runs here, or "off": Python does the same work."""


def inspect(store: Store, *, samples: int = 3, seq_len: int = 64, seed: int = 0) -> StoreReport:
    """Look into a store.

    Args:
        store: an open store.
        samples: rows to decode, spread over the store; the same for the same seed.
        seq_len: tokens of such a row; fewer where the store is smaller.
        seed: which rows.

    Raises:
        ManifestError: the tokenizer's files are missing or damaged.
        ShardError: a block that was sampled is damaged or missing.
    """
    seq_len = max(1, min(seq_len, store.num_tokens - 1))
    rows = store.num_rows(seq_len)
    picked = np.sort(np.random.default_rng(seed).choice(rows, size=min(samples, rows), replace=False))
    return StoreReport(
        url=store.url,
        snapshot=store.snapshot,
        fingerprint=store.fingerprint,
        documents=store.num_documents,
        tokens=store.num_tokens,
        nbytes=store.nbytes,
        bytes_per_token=store.nbytes / max(1, store.num_tokens),
        tokens_per_document=store.num_tokens / max(1, store.num_documents),
        vocab_size=store.vocab_size,
        tokenizer=store.tokenizer.name,
        dtype=store.dtype.name,
        codec=store.codec,
        num_shards=store.num_shards,
        shards=tuple(store.shards[i] for i in range(min(SHOWN_SHARDS, store.num_shards))),
        samples=tuple(
            Sample(
                row=int(row),
                seq_len=seq_len,
                text=store.tokenizer.decode(store.read(int(row) * seq_len, (int(row) + 1) * seq_len)),
            )
            for row in picked
        ),
    )
