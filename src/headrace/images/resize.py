"""A part of an image -> its place in a batch, resized: Pillow's bilinear filter, which averages where it shrinks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.native import kernels


def resize_into(part: NDArray[np.uint8], out: NDArray[np.uint8], *, flip: bool = False) -> None:
    """Resize an image: in C, or by Pillow; the same pixels.

    Args:
        part: uint8 [height, width, 3]; any strides.
        out: uint8 [height, width, 3]: receives the pixels; the last axis contiguous.
        flip: mirror it from left to right.
    """
    if part.shape == out.shape:
        out[...] = part[:, ::-1] if flip else part
        return
    native = kernels()
    if native is not None and out.flags.c_contiguous:
        pixels = part if _is_plain(part) else np.ascontiguousarray(part)
        height, width, _ = pixels.shape
        # The rows of the part lie in the whole image: its memory from the first pixel to the last.
        stride = pixels.strides[0]
        memory = np.lib.stride_tricks.as_strided(pixels, ((height - 1) * stride + width * 3,), (1,))
        native.resize_rgb(memory, height, width, stride, out, out.shape[0], out.shape[1], int(flip))
        return
    image: Any = import_module("PIL.Image")
    filtered = image.fromarray(np.ascontiguousarray(part))
    # One direction at a time: where both change, Pillow chooses which one is first.
    for size in ((part.shape[1], out.shape[0]), (out.shape[1], out.shape[0])):
        filtered = filtered.resize(size, image.Resampling.BILINEAR)
    resized = np.asarray(filtered)
    out[...] = resized[:, ::-1] if flip else resized


def _is_plain(part: NDArray[np.uint8]) -> bool:
    """Whether pixels of a row are neighbours in memory, and rows follow each other."""
    return part.strides[2] == 1 and part.strides[1] == 3 and part.strides[0] >= 3 * part.shape[1]


def nearest(size: int, to_size: int) -> NDArray[np.int64]:
    """Which of `size` pixels each of `to_size` takes."""
    return ((np.arange(to_size) + 0.5) * (size / to_size)).astype(np.int64)


def resize_nearest(part: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """A mask resized: each pixel takes the nearest one's number."""
    rows, columns = nearest(part.shape[0], height), nearest(part.shape[1], width)
    taken: NDArray[Any] = part[rows[:, None], columns[None, :]]
    return taken
