"""A block's keys and values -> the bytes of a file; the bytes of a file -> the block, or why it is damaged.

A file in the order of its bytes:

    magic     8 bytes   "HRKV" 0 0 0 1
    length    uint32    of the header, little endian
    header    JSON      key, model, dtype, shape
    data                keys, then values, C order, in the machine's byte order
    checksum  16 bytes  XXH3-128 of all bytes before it
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import torch
import xxhash
from torch import Tensor

MAGIC = b"HRKV\0\0\0\1"
CHECKSUM_BYTES = 16


class BlockDamagedError(Exception):
    """A file does not hold the block that its name says."""


def encode_block(block: Tensor, header: Mapping[str, Any]) -> bytes:
    """The bytes of a block's file."""
    text = orjson.dumps(header, option=orjson.OPT_SORT_KEYS)
    data = block.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    content = b"".join([MAGIC, struct.pack("<I", len(text)), text, data.tobytes()])
    return content + xxhash.xxh3_128_digest(content)


def decode_block(
    content: bytes, header: Mapping[str, Any], *, dtype: torch.dtype, shape: Sequence[int]
) -> Tensor:
    """The block of a file.

    Args:
        content: of the file.
        header: what the file's must be.
        dtype: of the block.
        shape: of the block.

    Raises:
        BlockDamagedError: saying what differs.
    """
    view = memoryview(content)
    body, checksum = view[:-CHECKSUM_BYTES], view[-CHECKSUM_BYTES:]
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise BlockDamagedError(f"it begins with {bytes(view[: len(MAGIC)])!r}, expected {MAGIC!r}")
    got = xxhash.xxh3_128_digest(body)
    if got != bytes(checksum):
        raise BlockDamagedError(f"XXH3-128 {got.hex()}, the file says {bytes(checksum).hex()}")
    text = orjson.dumps(header, option=orjson.OPT_SORT_KEYS)
    start = len(MAGIC) + 4
    stored = bytes(body[start : start + len(text)])
    if struct.unpack_from("<I", body, len(MAGIC)) != (len(text),) or stored != text:
        raise BlockDamagedError(f"its header is {stored!r}, expected {text!r}")
    data = bytearray(body[start + len(text) :])
    expected = torch.Size(shape).numel() * dtype.itemsize
    if len(data) != expected:
        raise BlockDamagedError(f"{len(data)} bytes of keys and values, expected {expected}")
    return torch.frombuffer(data, dtype=dtype).view(*shape)
