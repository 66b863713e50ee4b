"""A store in memory with the attributes that a loader uses, and no files."""

import hashlib

import numpy as np
import pytest


class FakeStore:
    """Documents of random length, ids below `vocab_size`, eos last; remembers what was asked of it."""

    def __init__(self, num_tokens=1000, *, seed=0, vocab_size=257, name="fake", codec="none", mean_doc=40):
        rng = np.random.default_rng(seed)
        self.vocab_size, self.eos_id = vocab_size, vocab_size - 1
        self.dtype = np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)
        tokens = rng.integers(0, vocab_size - 1, num_tokens).astype(self.dtype)
        ends = np.cumsum(rng.geometric(1 / mean_doc, num_tokens))
        ends = np.append(ends[ends < num_tokens], num_tokens) if num_tokens else ends[:0]
        tokens[ends - 1] = self.eos_id
        self.tokens, self.ends = tokens, ends.astype(np.int64)
        self.url = f"fake://{name}"
        self.num_tokens, self.num_documents, self.num_shards = num_tokens, len(ends), 1
        self.codec, self.block_tokens, self.nbytes = codec, 64, tokens.nbytes
        self.fingerprint = hashlib.blake2b(tokens.tobytes(), digest_size=16).hexdigest()
        self.tokenizer_fingerprint = "0" * 32
        self.tokenizer = None
        self.calls = []

    def num_rows(self, seq_len):
        return max(0, (self.num_tokens - 1) // seq_len)

    def read(self, start, stop):
        self.calls.append(("read", start, stop))
        return self.tokens[start:stop]

    def gather(self, starts, length, out=None):
        found = self.tokens[starts[:, None] + np.arange(length)]
        if out is None:
            return found
        out[...] = found
        return out

    def prefetch(self, starts, length):
        self.calls.append(("prefetch", len(starts), length))

    def document_ends(self, start, stop):
        return self.ends[(self.ends > start) & (self.ends <= stop)]


@pytest.fixture
def fake_store():
    return FakeStore


@pytest.fixture
def store():
    return FakeStore()
