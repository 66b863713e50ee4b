"""Texts -> MinHash signatures; signatures of all documents in order -> which are near-duplicates of earlier ones.

The signatures are rensa's (Rust, no dependencies, about ten times as fast as datasketch, which would bring scipy).
What a shingle is, and which documents are compared, is decided here: 16 bytes of lowercased text with single
blanks, so that scripts without blanks between words work as well, and of long texts one shingle in eight (those
whose hash says so, the same ones in every text), which leaves the estimate as it is and saves most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import ConfigError

SHINGLE_BYTES = 16
PERMUTATIONS = 128
_SEED = 0x6865616472616365
_FEW = 512
"""Texts of fewer shingles keep them all."""


def algorithm_version() -> int:
    """Rensa's version of the algorithm: signatures of two versions cannot be compared.

    Raises:
        ConfigError: rensa is not installed.
    """
    return int(_rensa().ALGORITHM_VERSION)


def _rensa() -> Any:
    try:
        return import_module("rensa").RMinHash
    except ModuleNotFoundError as error:
        raise ConfigError("minhash needs the rensa library. Run: pip install 'headrace[dedup]'") from error


def sketch(texts: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """MinHash signature of each text: uint32 [n, 128]."""
    rows = [shingles(text) for text in texts]
    offsets = np.zeros(len(rows) + 1, dtype=np.uint64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = np.concatenate(rows) if rows else np.empty(0, np.uint64)
    matrix = _rensa().digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, _SEED)
    return np.asarray(matrix.to_rows(), dtype=np.uint32).reshape(-1, PERMUTATIONS)


def shingles(text: bytes) -> npt.NDArray[np.uint64]:
    """Hashes of a text's runs of 16 bytes, at least one: uint64 [n]."""
    plain = b" ".join(text.decode().lower().encode().split()).ljust(SHINGLE_BYTES)
    size = len(plain) - SHINGLE_BYTES + 1
    first: npt.NDArray[np.uint64] = np.ndarray((size,), dtype="<u8", buffer=plain, strides=(1,))
    second: npt.NDArray[np.uint64] = np.ndarray((size,), dtype="<u8", buffer=plain, offset=8, strides=(1,))
    # Multiply and shift (the constants are splitmix64's): enough to make every output bit depend on every byte.
    hashed = first * np.uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> np.uint64(32)
    hashed += second
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    hashed ^= hashed >> np.uint64(29)
    hashed *= np.uint64(0x94D049BB133111EB)
    hashed ^= hashed >> np.uint64(32)
    if size < _FEW:
        return hashed
    kept = hashed[hashed % np.uint64(8) == 0]
    return kept if len(kept) else hashed[:1]


def bands_of(threshold: float) -> tuple[int, int]:
    """Bands and rows in each, for which pairs above the threshold nearly always meet in a band.

    >>> bands_of(0.8)
    (16, 8)
    """
    for rows in (32, 16, 8, 4, 2):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.9:
            return bands, rows
    return PERMUTATIONS, 1


def repeats(sketches: Sequence[npt.NDArray[np.uint32]], threshold: float) -> npt.NDArray[np.bool_]:
    """Which documents are near an earlier one that was kept: bool [documents].

    Documents that meet in a band are compared by their signatures with the first kept one of that band's group.
    Memory: 12 bytes a document and band at a time, one band after the other; signatures may be mapped files.

    Args:
        sketches: uint32 [n_i, 128] each, in order.
        threshold: share of equal places in two signatures, which estimates the Jaccard similarity.
    """
    total = sum(len(part) for part in sketches)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in sketches])])
    nearest = np.arange(total, dtype=np.int64)  # the first document that each is near to
    bands, rows = bands_of(threshold)
    for band in range(bands):
        keys = np.concatenate([np.empty(0, np.uint64), *(_band_key(part, band, rows) for part in sketches)])
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        new_group = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if total else np.empty(0, bool)
        first = order[np.maximum.accumulate(np.where(new_group, np.arange(total), 0))]
        for later, earlier in zip(order[~new_group].tolist(), first[~new_group].tolist(), strict=True):
            if _similarity(sketches, starts, later, earlier) >= threshold:
                nearest[later] = min(nearest[later], earlier)
    repeated: npt.NDArray[np.bool_] = nearest != np.arange(total)
    return repeated


def _band_key(part: npt.NDArray[np.uint32], band: int, rows: int) -> npt.NDArray[np.uint64]:
    key = np.full(len(part), band + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for column in range(band * rows, (band + 1) * rows):
        key ^= part[:, column].astype(np.uint64)
        key *= np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(31)
    return key


def _similarity(
    sketches: Sequence[npt.NDArray[np.uint32]], starts: npt.NDArray[np.int64], a: int, b: int
) -> float:
    one, other = (
        sketches[part][number - starts[part]]
        for number in (a, b)
        for part in [int(np.searchsorted(starts, number, side="right")) - 1]
    )
    return float((one == other).mean())
