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
