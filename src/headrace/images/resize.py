"""A part of an image -> its place in a batch, resized: Pillow's bilinear filter, which averages where it shrinks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.native import kernels


def resize_into(part: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Resize an image.

    Args:
        part: uint8 [height, width, 3]; any strides.
        out: uint8 [height, width, 3]: receives the pixels; the last axis contiguous.
    """
    if part.shape == out.shape:
        out[...] = part
        return
    native = kernels()
    if native is not None and hasattr(native, "resize_rgb") and out.flags.c_contiguous and _is_plain(part):
        height, width, _ = part.shape
        # The rows of the part lie in the whole image: its memory from the first pixel to the last.
        stride = part.strides[0]
        memory = np.lib.stride_tricks.as_strided(part, ((height - 1) * stride + width * 3,), (1,))
        native.resize_rgb(memory, height, width, stride, out, out.shape[0], out.shape[1])
        return
    image: Any = import_module("PIL.Image")
    resized = image.fromarray(np.ascontiguousarray(part)).resize(
        (out.shape[1], out.shape[0]), image.Resampling.BILINEAR
    )
    out[...] = np.asarray(resized)


def _is_plain(part: NDArray[np.uint8]) -> bool:
    """Whether pixels of a row are neighbours in memory, and rows follow each other."""
    return part.strides[2] == 1 and part.strides[1] == 3 and part.strides[0] >= 3 * part.shape[1]


def resize_nearest(part: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """A mask resized: each pixel takes the nearest one's number."""
    rows = ((np.arange(height) + 0.5) * (part.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (part.shape[1] / width)).astype(np.int64)
    taken: NDArray[Any] = part[rows[:, None], columns[None, :]]
    return taken
