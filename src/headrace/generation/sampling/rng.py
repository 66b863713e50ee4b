"""(run seed, prompt id, sample index), token index -> a uniform random number, without any state.

The numbers of a row do not depend on the other rows of its batch, on whether the job was stopped, or on the worker.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def stream_key(seed: int, prompt_id: str, sample_index: int) -> int:
    """64 bits that identify the random stream of a row; hashed, so that neighbouring seeds are unrelated.

    >>> stream_key(0, "a", 0) != stream_key(0, "a", 1) != stream_key(1, "a", 0)
    True
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(seed), prompt_id, str(sample_index)):
        data = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def uniforms(keys_N: npt.ArrayLike, index_N: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Number index_N of each stream, float64 [N] in [0, 1).

    Source: Steele, Lea, Flood 2014, SplitMix64, jumped to its index and mixed twice.

    >>> float(uniforms([7], [3])[0]) == float(uniforms([9, 7], [0, 3])[1])
    True
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        x = np.asarray(keys_N, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15) * (
            np.asarray(index_N, dtype=np.uint64) + np.uint64(1)
        )
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
