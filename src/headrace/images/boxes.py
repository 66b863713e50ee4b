"""Boxes, points and masks of an image -> where their pixels are in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.images.resize import resize_nearest
from headrace.images.transform import Geometry


def move_points(points: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Points (x, y) of the image, float [N, 2], in the batch's place; they may lie outside."""
    one = geometry
    moved = np.empty((len(points), 2), np.float64)
    moved[:, 0] = (points[:, 0] - one.x0) * (one.width / (one.x1 - one.x0))
    moved[:, 1] = (points[:, 1] - one.y0) * (one.height / (one.y1 - one.y0))
    if one.flip:
        moved[:, 0] = one.place_width - moved[:, 0]
    return moved.astype(np.float32)


def move_keypoints(
    keypoints: NDArray[Any], geometry: Geometry, mirrored: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Keypoints of objects in the batch's place; the left eye of a mirrored face is its right one.

    Args:
        keypoints: float [N, K, 3]: x, y, and 0 not labelled, 1 hidden, 2 visible, as COCO has them.
        geometry: where pixels go.
        mirrored: see `mirrored_keypoints`.

    Returns:
        float32 [N, K, 3]; what is not labelled stays as it is.
    """
    moved = np.array(keypoints, np.float32)
    moved[:, :, :2] = move_points(moved[:, :, :2].reshape(-1, 2), geometry).reshape(*moved.shape[:2], 2)
    moved = np.where(keypoints[:, :, 2:] == 0, np.asarray(keypoints, np.float32), moved)
    return moved[:, mirrored] if geometry.flip else moved


def mirrored_keypoints(names: Sequence[str]) -> NDArray[np.int64]:
    """int64 [K]: the keypoint that takes the place of each in a mirrored image, by `left` and `right` in its name.

    >>> mirrored_keypoints(["nose", "left_eye", "right_eye"]).tolist()
    [0, 2, 1]
    """
    places = {name: i for i, name in enumerate(names)}
    swapped = {
        "left": "right",
        "right": "left",
        "Left": "Right",
        "Right": "Left",
        "LEFT": "RIGHT",
        "RIGHT": "LEFT",
    }

    def other(name: str) -> str:
        for one, opposite in swapped.items():
            if one in name and (renamed := name.replace(one, opposite)) in places:
                return renamed
        return name

    return np.array([places[other(name)] for name in names], np.int64)


def move_boxes(boxes: NDArray[Any], geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes (x0, y0, x1, y1) of the image in the batch's place, cut at the edges of what is seen of the image.

    Returns:
        float32 [N, 4], and which boxes have a pixel left.
    """
    corners = move_points(np.asarray(boxes).reshape(-1, 2), geometry).reshape(-1, 2, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)
    right = float(geometry.place_width) if geometry.flip else float(geometry.width)
    left = right - geometry.width if geometry.flip else 0.0
    moved = np.concatenate((low, high), axis=1)
    moved[:, [0, 2]] = np.clip(moved[:, [0, 2]], left, right)
    moved[:, [1, 3]] = np.clip(moved[:, [1, 3]], 0, geometry.height)
    return moved, (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])


def restore_boxes(boxes: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Boxes [N, 4] in the batch's place, such as predicted ones, where they are in the image; see `move_boxes`."""
    one = geometry
    restored = np.array(boxes, np.float64).reshape(-1, 4)
    if one.flip:
        restored[:, [0, 2]] = one.place_width - restored[:, [2, 0]]
    restored[:, [0, 2]] = restored[:, [0, 2]] * ((one.x1 - one.x0) / one.width) + one.x0
    restored[:, [1, 3]] = restored[:, [1, 3]] * ((one.y1 - one.y0) / one.height) + one.y0
    return restored.astype(np.float32)


def move_mask(mask: NDArray[Any], geometry: Geometry, shape: tuple[int, int], *, pad: int) -> NDArray[Any]:
    """The numbers of a mask [height, width] in the batch's place; `pad` where there is no image."""
    one = geometry
    out = np.full(shape, pad, mask.dtype)
    out[: one.height, : one.width] = resize_nearest(
        mask[one.y0 : one.y1, one.x0 : one.x1], one.height, one.width
    )
    return out[:, ::-1] if one.flip else out
