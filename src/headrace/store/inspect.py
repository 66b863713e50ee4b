"""An open store -> a summary of it: counts, sizes, shards, and some rows as text."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from headrace.native import Target, native_target
from headrace.store.format import ShardEntry
from headrace.store.store import Store

SHOWN_SHARDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSample:
    """A row, decoded to text."""

    row: int
    seq_len: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """A summary of a store."""

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
    tokenizer: str | None
    """None for Megatron files that were opened without one."""
    dtype: str
    codec: str
    num_shards: int
    shards: tuple[ShardEntry, ...]
    """The first `SHOWN_SHARDS`."""
    samples: tuple[TextSample, ...]
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that runs here, or "off": Python does the same work."""


def inspect_store(store: Store, *, samples: int = 3, seq_len: int = 64, seed: int = 0) -> StoreReport:
    """Summarize a store.

    Args:
        store: an open store.
        samples: rows to decode, spread over the store; the same for the same seed.
        seq_len: tokens of such a row; fewer for a smaller store.
        seed: chooses the rows.

    Raises:
        ManifestError: the tokenizer's files are missing or damaged.
        ShardError: a block that was sampled is damaged or missing.
    """
    seq_len = max(1, min(seq_len, store.num_tokens - 1))
    rows = store.num_rows(seq_len)
    tokenizer = store.tokenizer if store.has_tokenizer else None
    samples = samples if tokenizer is not None else 0
    sampled = np.sort(np.random.default_rng(seed).choice(rows, size=min(samples, rows), replace=False))
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
        tokenizer=tokenizer.name if tokenizer is not None else None,
        dtype=store.dtype.name,
        codec=store.codec,
        num_shards=store.num_shards,
        shards=tuple(store.shards[i] for i in range(min(SHOWN_SHARDS, store.num_shards))),
        samples=tuple(
            TextSample(
                row=int(row),
                seq_len=seq_len,
                text=tokenizer.decode(store.read(int(row) * seq_len, (int(row) + 1) * seq_len)),
            )
            for row in sampled
            if tokenizer is not None
        ),
    )
