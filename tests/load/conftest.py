"""A store in memory with the attributes that a loader uses, and no files; and a real one on disk."""

import hashlib

import numpy as np
import pytest

from headrace.store import Store, commit_store, write_shard
from headrace.tokens import load_tokenizer


def documents(num_tokens, *, seed=0, vocab_size=257, mean_doc=40):
    """Random tokens in documents of random length, eos last; and the documents' ends."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size - 1, num_tokens).astype(
        np.uint16 if vocab_size <= 65536 else np.uint32
    )
    ends = np.cumsum(rng.geometric(1 / mean_doc, num_tokens))
    ends = np.append(ends[ends < num_tokens], num_tokens) if num_tokens else ends[:0]
    tokens[ends - 1] = vocab_size - 1
    return tokens, ends.astype(np.int64)


class FakeStore:
    """A store of random documents that remembers what was asked of it."""

    def __init__(self, num_tokens=1000, *, remote=False, codec="none", name="fake", fail=(), **kinds):
        self.tokens, self.ends = documents(num_tokens, **kinds)
        self.dtype = self.tokens.dtype
        self.vocab_size = kinds.get("vocab_size", 257)
        self.eos_id = self.vocab_size - 1
        self.has_spans = False
        self.url = f"fake://{name}" if remote else name
        self.num_tokens, self.num_documents, self.num_shards = num_tokens, len(self.ends), 1
        self.codec, self.block_tokens, self.nbytes = codec, 64, self.tokens.nbytes
        self.fingerprint = hashlib.blake2b(self.tokens.tobytes(), digest_size=16).hexdigest()
        self.tokenizer_fingerprint = "0" * 32
        self.tokenizer = None
        self.hinted = []
        self.hinted_lengths = []
        self.gathered = 0
        self.fail = list(fail)
        """Errors that the next reads raise, in order; None lets one pass."""

    def num_rows(self, seq_len):
        return max(0, (self.num_tokens - 1) // seq_len)

    def gather(self, starts, length, out=None):
        if self.fail and (error := self.fail.pop(0)) is not None:
            raise error
        assert len(starts) == 0 or (min(starts) >= 0 and max(starts) + length <= self.num_tokens)
        self.gathered += 1
        found = self.tokens[np.asarray(starts)[:, None] + np.arange(length)]
        if out is None:
            return found
        out[...] = found
        return out

    def lookup(self, starts, length):
        return None

    def cache_rows(self, seq_len):
        return self.num_tokens // seq_len

    def prefetch(self, starts, length, *, ordered=True):
        assert len(starts) == 0 or (min(starts) >= 0 and max(starts) + length <= self.num_tokens)
        self.hinted.append(np.asarray(starts))
        self.hinted_lengths.append(length)

    def document_ends(self, start, stop):
        return self.ends[(self.ends > start) & (self.ends <= stop)]


@pytest.fixture(scope="session")
def fake_store():
    return FakeStore


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """A real store of random documents in two shards -> (store, its tokens, its ends)."""

    def make(num_tokens=5000, *, codec="none", block_tokens=256, seed=0, mean_doc=40):
        url = tmp_path_factory.mktemp("store")
        tokens, ends = documents(num_tokens, seed=seed, mean_doc=mean_doc)
        cut = int(ends[len(ends) // 2])
        entries = [
            write_shard(url, "a", tokens[:cut], ends[ends <= cut], codec=codec, block_tokens=block_tokens),
            write_shard(
                url, "b", tokens[cut:], ends[ends > cut] - cut, codec=codec, block_tokens=block_tokens
            ),
        ]
        commit_store(url, entries, tokenizer=load_tokenizer("byte"), block_tokens=block_tokens)
        return Store.open(url), tokens, ends

    return make
