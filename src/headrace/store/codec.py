"""One block of tokens <-> its stored bytes.

A compressed block is what Arrow stores as a compressed buffer: the uncompressed length as a little-endian
int64 (-1: not compressed, as it would not have become smaller), then one LZ4 or ZSTD frame.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import lz4.frame
import numpy as np
import zstandard
from numpy.typing import NDArray

from headrace.types import Bytes

_LENGTH = struct.Struct("<q")
PREFIX_NBYTES = _LENGTH.size

_LZ4_PART = 64 << 10
ZSTD_LEVEL = 3
# By bytes of a token. For 2: matches of two tokens, in tables of 32 Ki entries, instead of level 3's own: English and
# code are 1 to 2 % larger and 8 % faster to encode; matches of three tokens (6 bytes) are 3 to 4 % larger again, and
# encode 7 % faster. For 4: matches of 6 bytes are as small as any, and the fastest.
ZSTD_TABLES: dict[int, dict[str, int]] = {
    2: {"min_match": 4, "hash_log": 15, "chain_log": 15},
    4: {"min_match": 6},
}


class _PerThread(threading.local):
    """Contexts of zstandard and lz4, which must not be shared between threads."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 26)
        self.lz4_context = lz4.frame.create_decompression_context()
        self.compressors: dict[tuple[int, int], zstandard.ZstdCompressor] = {}

    def lz4(self) -> Any:
        """A context that is reset, whatever happened to the last frame."""
        lz4.frame.reset_decompression_context(self.lz4_context)
        return self.lz4_context

    def compressor(self, nbytes: int, itemsize: int) -> zstandard.ZstdCompressor:
        compressor = self.compressors.get((nbytes, itemsize))
        if compressor is None:
            params = zstandard.ZstdCompressionParameters.from_level(
                ZSTD_LEVEL, source_size=nbytes, **ZSTD_TABLES[itemsize]
            )
            compressor = zstandard.ZstdCompressor(compression_params=params)
            self.compressors = {(nbytes, itemsize): compressor}  # of full blocks; a short one is rare
        return compressor


_thread = _PerThread()


class DecodeError(ValueError):
    """Stored bytes that do not decode to the declared block."""


def max_stored_nbytes(raw_nbytes: int, codec: str) -> int:
    """Most bytes that a block of `raw_nbytes` may take in a file."""
    return raw_nbytes if codec == "none" else PREFIX_NBYTES + raw_nbytes


def encode(tokens: NDArray[Any], codec: str) -> Bytes:
    """Stored bytes of a block; the same for the same tokens.

    Args:
        tokens: uint16 or uint32 [n], little-endian, contiguous.
        codec: none | lz4 | zstd.
    """
    raw = tokens.data.cast("B")
    if codec == "none":
        return raw
    if codec == "zstd":
        frame = _thread.compressor(raw.nbytes, tokens.itemsize).compress(raw)
    else:
        frame = lz4.frame.compress(
            raw, block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, store_size=True
        )
    if len(frame) >= raw.nbytes:
        return _LENGTH.pack(-1) + bytes(raw)
    return _LENGTH.pack(raw.nbytes) + frame


def decode_into(stored: Bytes, codec: str, out: memoryview) -> None:
    """Decode a block into `out`, whose length is the block's; never writes or allocates more.

    Args:
        stored: what `encode` returned.
        codec: none | lz4 | zstd.
        out: writable bytes, as many as the block's tokens take.

    Raises:
        DecodeError: the bytes decode to another length, or not at all.
    """
    stored = memoryview(stored)
    if codec != "none":
        if stored.nbytes < PREFIX_NBYTES:
            raise DecodeError(f"{stored.nbytes} stored bytes, expected at least {PREFIX_NBYTES}")
        (declared,) = _LENGTH.unpack_from(stored)
        stored = stored[PREFIX_NBYTES:]
        if declared == -1:
            codec = "none"
        elif declared != out.nbytes:
            raise DecodeError(f"declares {declared} bytes, expected {out.nbytes}")
    if codec == "none":
        if stored.nbytes != out.nbytes:
            raise DecodeError(f"has {stored.nbytes} bytes, expected {out.nbytes}")
        np.frombuffer(out, np.uint8)[:] = np.frombuffer(stored, np.uint8)
        return
    done = _unzstd(stored, out) if codec == "zstd" else _unlz4(stored, out)
    if done != out.nbytes:
        raise DecodeError(f"decodes to {done} bytes, expected {out.nbytes}")


def convert_ids(stored: Bytes, stored_dtype: np.dtype[Any], out: NDArray[Any]) -> None:
    """Convert uncompressed ids of another integer type to those of a store.

    Args:
        stored: ids of `stored_dtype`, as many as `out` has.
        stored_dtype: an integer type.
        out: uint16 or uint32 [n]: receives the ids.

    Raises:
        DecodeError: another number of ids, or an id that `out` cannot hold.
    """
    if memoryview(stored).nbytes != out.size * stored_dtype.itemsize:
        raise DecodeError(
            f"has {memoryview(stored).nbytes} bytes, expected {out.size * stored_dtype.itemsize}"
        )
    ids = np.frombuffer(stored, stored_dtype)
    limits = np.iinfo(out.dtype)
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > limits.max):
        raise DecodeError(f"has ids from {ids.min()} to {ids.max()}, expected 0 to {limits.max}")
    out[:] = ids


def _unzstd(frame: memoryview, out: memoryview) -> int:
    try:
        with _thread.decompressor.stream_reader(frame) as reader:
            done = reader.readinto(out)
            # One byte more would show that the frame does not end where the block ends.
            return done + len(reader.read(1))
    except zstandard.ZstdError as error:
        raise DecodeError(str(error)) from error


def _unlz4(frame: memoryview, out: memoryview) -> int:
    # Not lz4.frame.decompress: it allocates as much as the frame declares; and not 128 KiB at once, which the C library
    # gets from the kernel and returns for each block (84 page faults).
    context = _thread.lz4()
    at = done = 0
    try:
        while True:
            part, used, ended = lz4.frame.decompress_chunk(context, frame[at:], max_length=_LZ4_PART)
            if not part and not ended:
                return -1  # the frame is cut off
            stop = done + len(part)
            if stop > out.nbytes:
                return stop
            out[done:stop] = part
            at, done = at + used, stop
            if ended:
                return done
    except (RuntimeError, EOFError) as error:
        raise DecodeError(str(error)) from error
