"""Pixels -> the bytes of a PNG."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_png(pixels: NDArray[Any]) -> bytes:
    """A PNG of uint8 [height, width] or [height, width, 3], or uint16 [height, width]."""
    image: Any = import_module("PIL.Image")
    sink = io.BytesIO()
    image.fromarray(np.ascontiguousarray(pixels)).save(sink, "PNG")
    return sink.getvalue()


def thumbnail(pixels: NDArray[np.uint8], longest: int) -> tuple[bytes, str]:
    """A small picture for a page: its bytes and media type.

    Args:
        pixels: uint8 [height, width] or [height, width, 3].
        longest: pixels of the longer side, at most. Up to 64 pixels a PNG, so that each pixel is what it was.
    """
    image: Any = import_module("PIL.Image").fromarray(np.ascontiguousarray(pixels))
    is_small = max(image.size) <= min(longest, 64)
    image.thumbnail((longest, longest))
    sink = io.BytesIO()
    image.save(sink, "PNG" if is_small else "JPEG", **({} if is_small else {"quality": 82}))
    return sink.getvalue(), "image/png" if is_small else "image/jpeg"
