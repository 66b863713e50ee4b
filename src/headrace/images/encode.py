"""Pixels -> the bytes of a PNG; run lengths, as COCO writes them -> a mask."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DocumentError


def encode_png(pixels: NDArray[Any]) -> bytes:
    """A PNG of uint8 [height, width] or [height, width, 3], or uint16 [height, width]."""
    image: Any = import_module("PIL.Image")
    sink = io.BytesIO()
    image.fromarray(np.ascontiguousarray(pixels)).save(sink, "PNG")
    return sink.getvalue()


def mask_of_rle(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The mask of COCO's run lengths: {"size": [height, width], "counts": [...] or a string}; columns first.

    >>> mask_of_rle({"size": [2, 2], "counts": [1, 2, 1]}).tolist()
    [[0, 1], [1, 0]]

    Raises:
        DocumentError: runs that do not fill the mask.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = _runs_of_text(counts) if isinstance(counts, str | bytes) else [int(n) for n in counts]
    if sum(runs) != height * width or any(n < 0 for n in runs):
        raise DocumentError(f"run lengths of {sum(runs)} pixels in a mask of {width} x {height}")
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.repeat(values, runs).reshape(width, height).T.copy()


def _runs_of_text(counts: str | bytes) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, from 48 on; later ones as differences."""
    text = counts.encode() if isinstance(counts, str) else counts
    runs: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        more = True
        while more:
            if at >= len(text):
                raise DocumentError("run lengths that end within a number")
            char = text[at] - 48
            value |= (char & 0x1F) << shift
            shift += 5
            at += 1
            more = bool(char & 0x20)
            if not more and char & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
