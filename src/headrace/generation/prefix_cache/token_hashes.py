"""Token ids -> the key of each block, which names the block's tokens and all tokens before them.

A chain of hashes: the key of a block is the hash of the key before it and of the block's ids. So two prompts have equal
keys as far as they have equal tokens, and the keys and values of equal blocks are equal, as a token's depend on the
tokens before it only. The first link names the model and whom the cached blocks belong to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import orjson

BLOCK_TOKENS = 32
"""Tokens of a block: the unit that is found, stored and removed."""
FORMAT = 1
KEY_BYTES = 20
KEY_FORMAT = rf"[0-9a-f]{{{2 * KEY_BYTES}}}"
"""Regular expression of a block's key."""


def root_key(*, model: str, dtype: str, shape: Sequence[int], scope: str) -> bytes:
    """The link before the first block's.

    Args:
        model: identifies the weights and the arithmetic.
        dtype: of keys and values.
        shape: of a block.
        scope: blocks of different scopes have different keys, so that none is found from another scope.
    """
    content = orjson.dumps([FORMAT, model, dtype, list(shape), scope])
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def block_keys(token_ids: Sequence[int], *, root: bytes, block_tokens: int = BLOCK_TOKENS) -> list[str]:
    """The key of each whole block, 40 hex digits each.

    Args:
        token_ids: of a prompt; ids that do not fill a block have no key.
        root: see `root_key`.
        block_tokens: tokens of a block.

    >>> one, two = (block_keys([1, 2, 3, last], root=b"", block_tokens=2) for last in (4, 5))
    >>> one[0] == two[0], one[1] == two[1]
    (True, False)
    """
    keys = []
    data = np.asarray(token_ids, dtype="<u4").tobytes()
    size = 4 * block_tokens
    link = root
    for start in range(0, len(data) - size + 1, size):
        link = hashlib.blake2b(link + data[start : start + size], digest_size=KEY_BYTES).digest()
        keys.append(link.hex())
    return keys
