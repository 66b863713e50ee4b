"""A block survives its codec, and nothing else passes for it."""

from __future__ import annotations

import struct
import tracemalloc

import lz4.frame
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as some

from headrace.store.codec import DecodeError, decode_into, encode, max_stored_nbytes

CODECS = ["none", "lz4", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
@given(ids=some.lists(some.integers(0, 65535), min_size=1, max_size=300), repeat=some.integers(1, 20))
def test_a_block_decodes_to_its_tokens(codec, ids, repeat):
    tokens = np.array(ids * repeat, np.uint16)
    stored = bytes(encode(tokens, codec))
    assert stored == bytes(encode(tokens.copy(), codec)), "not the same bytes each time"
    assert len(stored) <= max_stored_nbytes(tokens.nbytes, codec)
    out = np.empty_like(tokens)
    decode_into(stored, codec, memoryview(out).cast("B"))
    assert np.array_equal(out, tokens)


def test_what_does_not_become_smaller_is_stored_as_it_is():
    tokens = np.random.default_rng(0).integers(0, 65536, 500).astype(np.uint16)
    for codec in ("lz4", "zstd"):
        assert bytes(encode(tokens, codec)) == struct.pack("<q", -1) + tokens.tobytes()


def frames(raw):
    return {"lz4": lz4.frame.compress(raw), "zstd": zstandard.compress(raw)}


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("length", [0, 1, 99, 101, 10_000])
def test_a_frame_of_another_length_is_refused(codec, length):
    frame = frames(bytes(length))[codec]
    out = bytearray(100)
    for declared in (length, 100):
        with pytest.raises(DecodeError, match="expected 100"):
            decode_into(struct.pack("<q", declared) + frame, codec, memoryview(out))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_bytes_that_are_no_frame_are_refused(codec):
    for body in (b"", b"\0" * 50, frames(bytes(100))[codec][:-5], frames(bytes(100))[codec][4:]):
        with pytest.raises(DecodeError):
            decode_into(struct.pack("<q", 100) + body, codec, memoryview(bytearray(100)))
    with pytest.raises(DecodeError, match="at least 8"):
        decode_into(b"\0" * 7, codec, memoryview(bytearray(100)))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_bomb_takes_no_more_memory_than_its_block(codec):
    bomb = struct.pack("<q", 100) + frames(bytes(200 << 20))[codec]
    out = memoryview(bytearray(100))
    tracemalloc.start()
    with pytest.raises(DecodeError, match="expected 100"):
        decode_into(bomb, codec, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
