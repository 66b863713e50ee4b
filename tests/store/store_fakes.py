"""Small stores, and blobs that are slow, busy, cut off or damaged."""

from __future__ import annotations

import threading

import numpy as np

from headrace.storage.blob import Unavailable
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


class FakeClock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self):
        self.now, self.sleeps = 0.0, []
        self._lock = threading.Lock()

    def sleep(self, seconds):
        with self._lock:
            self.now += seconds
            self.sleeps.append(seconds)


class FlakyBlob:
    """A blob of which each call is first handed to `trouble(call number, operation, path)`.

    What that returns decides: None lets the call pass, an exception is raised, a function is applied to the bytes.
    Counts calls and how many were under way at once.
    """

    def __init__(self, inner, trouble=lambda number, operation, path: None):
        self.inner, self.trouble = inner, trouble
        self.calls, self.running, self.most_running = [], 0, 0
        self._lock = threading.Lock()

    @property
    def url(self):
        return self.inner.url

    def _call(self, operation, path, *args):
        with self._lock:
            number = len(self.calls)
            self.calls.append((operation, path, *args))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            happens = self.trouble(number, operation, path)
            if isinstance(happens, Exception):
                raise happens
            got = getattr(self.inner, operation)(path, *args)
            return got if happens is None else happens(bytes(got))
        finally:
            with self._lock:
                self.running -= 1

    def size(self, path):
        return self._call("size", path)

    def get(self, path):
        return self._call("get", path)

    def get_range(self, path, start, stop):
        return self._call("get_range", path, start, stop)

    def put(self, path, data):
        return self._call("put", path, data)

    def put_if_absent(self, path, data):
        return self._call("put_if_absent", path, data)

    def list(self, prefix=""):
        return self._call("list", prefix)

    def delete(self, path):
        return self._call("delete", path)


def busy():
    return Unavailable("503 SlowDown", throttled=True)


def cut():
    return Unavailable("connection reset by peer")
