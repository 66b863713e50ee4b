"""Small stores."""

from __future__ import annotations

import numpy as np

from headrace.store import commit_store, write_shard
from headrace.tokens import load_tokenizer

BYTE = load_tokenizer("byte")


class WideTokenizer:
    """A vocabulary that needs uint32."""

    name, vocab_size, eos_id, fingerprint, engine = "wide", 100_000, 99_999, "ab" * 16, "fake"

    def files(self):
        return {"wide.json": b'{"kind": "wide"}'}


WIDE = WideTokenizer()


def sample_tokens(count, *, dtype="uint16", seed=0):
    """Ids that compress a little, the end of document here and there; and the documents' ends."""
    rng = np.random.default_rng(seed)
    eos, top = (256, 256) if dtype == "uint16" else (99_999, 99_999)
    tokens = (rng.zipf(1.3, count) % top).astype(dtype)
    ends = np.unique(np.append(rng.integers(1, count + 1, max(1, count // 40)), count))
    tokens[tokens == eos] = 0
    tokens[ends - 1] = eos
    return tokens, ends.astype(np.int64)


def make_store(url, tokens, ends, *, sizes=None, codec="zstd", block_tokens=64, prefix="s", **commit):
    """Write tokens as shards of these sizes (one by default), and commit them."""
    sizes = sizes or [len(tokens)]
    codecs = [codec] * len(sizes) if isinstance(codec, str) else codec
    entries, at = [], 0
    for i, (size, one) in enumerate(zip(sizes, codecs, strict=True)):
        inside = ends[(ends > at) & (ends <= at + size)] - at
        name = f"{prefix}{i}"
        entries.append(
            write_shard(url, name, tokens[at : at + size], inside, codec=one, block_tokens=block_tokens)
        )
        at += size
    assert at == len(tokens)
    commit.setdefault("tokenizer", BYTE if tokens.dtype == np.uint16 else WIDE)
    commit_store(url, entries, **commit)
    return entries
