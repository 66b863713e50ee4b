"""The columns of a store of samples -> which of them a batch has, and what is done to each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import ConfigError
from headrace.images import mirrored_keypoints
from headrace.store import Array, Image, List, Tokens, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headrace.images import ImageTransform
    from headrace.store import Feature, SampleStore

_WITH_BOXES = ("classes", "iscrowd", "area")


class SampleColumns:
    """Which columns a batch has, and what is done to each.

    Raises:
        ConfigError: no such column, or an `image` transform for a store without images.
    """

    def __init__(
        self, store: SampleStore, columns: Sequence[str] | None, transform: ImageTransform | None
    ) -> None:
        features = store.features
        names = list(features) if columns is None else list(columns)
        for name in names:
            if name not in features:
                raise ConfigError(f"columns: no column {name!r}; {store.url} has: {', '.join(features)}")
        self.features = {name: features[name] for name in names}
        self.image = next((name for name in names if _is_image(name, features[name])), None)
        if transform is not None and self.image is None:
            raise ConfigError(f"image={transform}: {store.url} has no column of images: {', '.join(names)}")
        moved = transform is not None
        self.masks = [
            name for name in names if moved and _is_named(name, "mask") and features[name] == Image()
        ]
        self.boxes = [
            name for name in names if moved and _is_named(name, "boxes") and _is_list(features[name], 4)
        ]
        self.points = [
            name
            for name in names
            if moved
            and _is_named(name, "keypoints")
            and (_is_list(features[name], 2) or _is_of_objects(features[name]))
        ]
        self.instance_masks = [
            name
            for name in names
            if moved and _is_named(name, "masks") and features[name] == List(Value("string"))
        ]
        self.with_boxes = [
            name
            for name in names
            if self.boxes
            and isinstance(features[name], List)
            and (
                name in (*_WITH_BOXES, *self.instance_masks)
                or name.startswith("box_")
                or (name in self.points and _is_of_objects(features[name]))
            )
        ]
        flips = transform is not None and transform.flip > 0
        self.mirrored = {name: _mirrored(store, features[name], flips=flips) for name in self.points}
        done = {*self.masks, self.image} if moved else set()
        self.tokens = [name for name in names if isinstance(features[name], Tokens)]
        self.gathered = [name for name in names if name not in done or isinstance(features[name], Array)]


def _is_named(name: str, what: str) -> bool:
    return name == what or name.endswith(f"_{what}")


def _is_image(name: str, feature: Feature) -> bool:
    if isinstance(feature, Array):
        return name == "image" and feature.dtype == "uint8" and len(feature.shape) in (2, 3)
    return feature == Image() and not _is_named(name, "mask")


def _is_list(feature: Feature, size: int) -> bool:
    return (
        isinstance(feature, List) and isinstance(feature.feature, Array) and feature.feature.shape == (size,)
    )


def _is_of_objects(feature: Feature) -> bool:
    """Whether each value is the keypoints of an object: [K, 3] of x, y and whether it is visible, as COCO has them."""
    return (
        isinstance(feature, List)
        and isinstance(feature.feature, Array)
        and len(feature.feature.shape) == 2
        and feature.feature.shape[1] == 3
    )


def _mirrored(store: SampleStore, feature: Feature, *, flips: bool) -> NDArray[np.int64] | None:
    """Which keypoint of a mirrored object is which: left and right ones change places, by their names."""
    if not _is_of_objects(feature):
        return None
    jobs = [store.extra, *reversed(store.extra.get("ingest", []))]
    names = next((job["keypoint_names"] for job in jobs if "keypoint_names" in job), None)
    assert isinstance(feature, List)
    assert isinstance(feature.feature, Array)
    if not flips:
        return np.arange(feature.feature.shape[0])
    if names is None or len(names) != feature.feature.shape[0]:
        raise ConfigError(
            f"{store.url}: has no names of its {feature.feature.shape[0]} keypoints, so which ones change places in a "
            'mirrored image is unknown: commit_samples(..., extra={"keypoint_names": ["nose", "left_eye", ...]})'
        )
    return mirrored_keypoints(names)
