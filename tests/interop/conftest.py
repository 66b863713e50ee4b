"""A store in memory that counts the rows that are read of it."""

import numpy as np
import pytest


class CountingStore:
    def __init__(self, num_tokens=1500):
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(0, 256, num_tokens).astype(np.uint16)
        self.tokens[rng.integers(0, num_tokens, num_tokens // 30)] = 256
        self.num_tokens, self.dtype, self.vocab_size, self.eos_id = num_tokens, np.dtype(np.uint16), 257, 256
        self.has_spans = False
        self.url, self.codec, self.block_tokens = "counting", "none", 64
        self.fingerprint, self.tokenizer_fingerprint, self.tokenizer = "1" * 32, "0" * 32, None
        self.rows_read = 0

    def num_rows(self, seq_len):
        return (self.num_tokens - 1) // seq_len

    def lookup(self, starts, length):
        return None

    def gather(self, starts, length, out=None):
        self.rows_read += len(starts)
        return self.tokens[np.asarray(starts)[:, None] + np.arange(length)]


@pytest.fixture
def store():
    return CountingStore()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models: handing their work to more threads costs more than the work, above all on a shared machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
