"""A device -> FLOP/s of matrix products by dtype, bytes/s of its memory and of a disk, tokens/s that a core decodes.

Each probe runs for some tenths of a second and reports its best repetition: other work only ever slows it.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headrace.store import BLOCK_TOKENS, decode_into, encode

PROBE_S = 0.3
"""Seconds of each probe, at least two repetitions."""
_DISK_BYTES = 64 * 2**20
_COPY_BYTES = 64 * 2**20


def matmul_flops(dtype: str, device: str = "cpu", *, seconds: float = PROBE_S) -> float:
    """FLOP/s that square matrix products reach on this process's threads.

    Args:
        dtype: float32 or bf16.
        device: of torch: cpu, cuda:0.
        seconds: to measure for.
    """
    try:
        import torch
    except ModuleNotFoundError:
        if dtype != "float32":
            return 0.0
        rng = np.random.default_rng(0)
        a, b = (rng.standard_normal((1024, 1024), dtype=np.float32) for _ in range(2))
        return 2 * 1024**3 / _best(lambda: a @ b, seconds)
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    width = 1024 if device == "cpu" else 8192
    while True:
        x, y = (torch.randn(width, width, device=device).to(kind) for _ in range(2))
        once = _best(functools.partial(_product, x, y), 0.0)
        if once < 4 * PROBE_S or width <= 256:
            break
        width //= 2  # a processor that emulates the dtype
    return 2 * width**3 / _best(functools.partial(_product, x, y), seconds)


def copy_bytes_s(device: str = "cpu", *, seconds: float = PROBE_S) -> float:
    """Bytes/s that a copy of a large array reads and writes."""
    try:
        import torch
    except ModuleNotFoundError:
        source = np.ones(_COPY_BYTES, dtype=np.uint8)
        target = np.empty_like(source)
        return 2 * _COPY_BYTES / _best(lambda: np.copyto(target, source), seconds)
    nbytes = _COPY_BYTES if device == "cpu" else 16 * _COPY_BYTES
    x, y = (torch.ones(nbytes // 4, device=device) for _ in range(2))
    return 2 * nbytes / _best(lambda: _finished(y.copy_(x)), seconds)


def disk_bytes_s(directory: Path) -> float:
    """Bytes/s of reading a file of the directory's disk that is not in the page cache.

    Raises:
        OSError: no file can be written there.
    """
    content = np.random.default_rng(0).bytes(2**20)
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_DISK_BYTES // len(content)):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        buffer = memoryview(bytearray(4 * 2**20))
        start = time.perf_counter()
        while file.raw.readinto(buffer):
            pass
        return _DISK_BYTES / (time.perf_counter() - start)


def decode_tokens_s(codec: str = "zstd", *, seconds: float = PROBE_S) -> float:
    """Tokens/s that one core decodes from blocks of a store, measured on ids that are as unequal as words are."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.2, BLOCK_TOKENS), 50_000).astype(np.uint16)
    stored = encode(ids, codec)
    out = memoryview(bytearray(ids.nbytes))
    return BLOCK_TOKENS / _best(lambda: decode_into(stored, codec, out), seconds)


def _best(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest repetition, after one that warms up."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    for repetition in range(10_000):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if repetition >= 1 and time.perf_counter() > end:
            break
        if seconds == 0.0:
            break
    return best


def _product(x: Any, y: Any) -> None:
    _finished(x @ y)


def _finished(tensor: Any) -> None:
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize()
