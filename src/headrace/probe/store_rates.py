"""A store -> what one core decodes of it, and what a token of it takes: figures for the input side of a plan."""

from __future__ import annotations

import os
import time

import numpy as np

from headrace.plan import StoreFigures
from headrace.store import Store

_READ_TOKENS = 32 * 2**20
"""Most tokens that a pass reads: at most 128 MiB."""


def measure_store(url: str | os.PathLike[str], *, seconds: float = 0.5) -> StoreFigures:
    """Read blocks of a store at random places, each once in a pass, and take the processor seconds of the fastest pass.

    Processor seconds, as a cold disk or a network is another stage's limit.

    Args:
        url: of a store, as `Store.open` takes it.
        seconds: to measure for, at least two passes.

    Raises:
        ManifestError: there is no store of tokens.
    """
    best_s, tokens, end = float("inf"), 0, time.perf_counter() + seconds
    for repetition in range(1000):
        with Store.open(url) as store:  # anew: it keeps decoded blocks
            size = min(store.block_tokens, store.num_tokens)
            starts = np.random.default_rng(0).permutation(-(-store.num_tokens // size))[
                : max(1, _READ_TOKENS // size)
            ]
            before, tokens = time.process_time(), 0
            for start in starts.tolist():
                tokens += len(store.read(start * size, min((start + 1) * size, store.num_tokens)))
            best_s = min(best_s, time.process_time() - before)
            found = StoreFigures(
                codec=store.codec,
                num_tokens=store.num_tokens,
                bytes_per_token=store.nbytes / store.num_tokens,
                token_bytes=store.dtype.itemsize,
                decode_tokens_s=tokens / max(best_s, 1e-6),
                block_tokens=store.block_tokens,
            )
        if repetition >= 1 and time.perf_counter() > end:
            break
    return found
