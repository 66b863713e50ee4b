"""The segmentation of an object, as COCO writes it -> run lengths -> a mask; polygons are drawn by pycocotools."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, DocumentError
from headrace.images.resize import nearest
from headrace.images.transform import Geometry
from headrace.native import kernels

_MAX_COORDINATE: Final = 1 << 20


def _pycocotools() -> Any:
    try:
        return import_module("pycocotools.mask")
    except ModuleNotFoundError:
        raise ConfigError(
            'masks of objects need pycocotools, which is not installed: pip install "headrace[images]"'
        ) from None


def rle_of_segmentation(segmentation: Any, height: int, width: int) -> str:
    """The compressed run lengths of an object: what COCO's `counts` is as a string.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...] in pixels, or {"size": [height, width], "counts": ...} with the
            runs as numbers or compressed.
        height: of the image.
        width: of the image.

    Raises:
        DocumentError: it is neither, or of another size.
    """
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if not isinstance(size, Sequence) or list(size) != [height, width]:
            raise DocumentError(f"segmentation of size {size}, the image is {[height, width]}")
        return encode_rle(mask_of_rle(segmentation))
    polygons = _checked_polygons(segmentation)
    coco = _pycocotools()
    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    text: str = merged["counts"].decode()
    return text


def _checked_polygons(value: Any) -> list[list[float]]:
    if not isinstance(value, list) or not value:
        raise DocumentError(f"segmentation {value!r:.60}: expected polygons or run lengths")
    polygons = value if isinstance(value[0], list) else [value]
    for polygon in polygons:
        # Four numbers are three points too few: pycocotools would take them for a box.
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DocumentError(f"segmentation with the polygon {polygon!r:.60}: expected 3 or more points")
        for number in polygon:
            is_number = isinstance(number, int | float) and math.isfinite(number)
            if not is_number or abs(number) > _MAX_COORDINATE:
                raise DocumentError(f"segmentation with the coordinate {number!r:.20}")
    return polygons


def encode_rle(mask: NDArray[Any]) -> str:
    """The compressed run lengths of a mask [height, width]; what is not 0 belongs to the object.

    >>> encode_rle(np.array([[0, 1], [1, 0]]))
    '121'
    """
    filled = np.asfortranarray(mask != 0).view(np.uint8)
    text: str = _pycocotools().encode(filled)["counts"].decode()
    return text


def mask_of_rle(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The mask of COCO's run lengths: {"size": [height, width], "counts": [...] or a string}; columns first.

    pycocotools leaves what the runs do not fill as it finds it in memory; here that is an error.

    >>> mask_of_rle({"size": [2, 2], "counts": [1, 2, 1]}).tolist()
    [[0, 1], [1, 0]]

    Raises:
        DocumentError: runs that do not fill the mask.
    """
    height, width = rle["size"]
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        runs = _runs_of_text(counts)
    elif isinstance(counts, list) and all(type(n) is int and 0 <= n <= height * width for n in counts):
        runs = np.array(counts, np.int64)
    else:
        raise DocumentError(f"run lengths {counts!r:.60}: expected numbers of pixels, or a string")
    if int(runs.sum()) != height * width or bool((runs < 0).any()) or bool((runs > height * width).any()):
        raise DocumentError(f"run lengths of {int(runs.sum())} pixels in a mask of {width} x {height}")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(width, height).T


def _runs_of_text(counts: str | bytes) -> NDArray[np.int64]:
    """COCO's compressed run lengths: 5 bits a character, from 48 on; the fourth and later are differences.

    Raises:
        DocumentError: a character that is none, a number without an end, or one of more than 30 bits.
    """
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(chars):
        return chars
    ends = np.flatnonzero((chars & 0x20) == 0)
    if bool((chars < 0).any() or (chars > 63).any()) or not len(ends) or ends[-1] != len(chars) - 1:
        raise DocumentError(
            "run lengths that end within a number, or with a character that is none of theirs"
        )
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > 6:
        raise DocumentError("run lengths with a number of more than 30 bits")
    places = np.arange(len(chars)) - np.repeat(starts, lengths)
    values = np.add.reduceat((chars & 0x1F) << (5 * places), starts)
    values -= np.where(chars[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    # Sums over every other number; the one at 0 is added to nothing.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_instance_mask(counts: str | bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The mask of one object: uint8 [height, width], 1 where it is; without a pixel where `counts` is empty.

    Raises:
        DocumentError: run lengths that do not fill the image.
    """
    if not counts:
        return np.zeros((height, width), np.uint8)
    return mask_of_rle({"size": (height, width), "counts": counts})


def place_instance_masks(
    counts: Sequence[memoryview], height: int, width: int, geometry: Geometry, out: NDArray[np.uint8]
) -> None:
    """The masks of an image's objects where its pixels went.

    Args:
        counts: run lengths of each object, as text; empty for one without a mask.
        height: of the image, and so of the masks.
        width: of the image.
        geometry: where pixels go.
        out: uint8 [objects, H, W], contiguous, zeros: receives the masks.

    Raises:
        DocumentError: run lengths that do not fill the image.
    """
    one, native = geometry, kernels()
    rows = one.y0 + nearest(one.y1 - one.y0, one.height)
    columns = one.x0 + nearest(one.x1 - one.x0, one.width)
    # The extension asks the other way round: where each row and column of the image begins in the place.
    to_rows = np.searchsorted(rows, np.arange(height + 1))
    to_columns = np.searchsorted(columns, np.arange(width + 1))
    for place, text in zip(out, counts, strict=True):
        if native is None or not native.paint_mask(
            text, height, width, to_rows, to_columns, int(one.flip), place, *place.shape
        ):  # without the extension; or empty, or damaged, which is an error here
            mask = decode_instance_mask(bytes(text), height, width)[rows[:, None], columns[None, :]]
            part = place[: one.height, place.shape[1] - one.width :] if one.flip else place[: one.height]
            part[:, : one.width] = mask[:, ::-1] if one.flip else mask
