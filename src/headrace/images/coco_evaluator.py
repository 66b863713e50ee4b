"""Boxes, masks or keypoints found in images, and those that are there -> COCO's scores, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.images.instance_masks import encode_rle

METRICS: Final = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_METRICS: Final = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_PERSON_KEYPOINTS: Final = 17


class CocoEvaluator:
    """COCO's scores of detections: average precision and recall over classes, IoU of 0.50 to 0.95, and sizes.

    Batches are given as the loader delivers them, so nothing is turned into lists or files by hand:

        evaluator = CocoEvaluator()
        for batch in loader:
            evaluator.update(model(batch["image"]), batch)
        evaluator.compute()["AP"]

    Args:
        iou_type: "bbox" compares boxes, "segm" masks, "keypoints" keypoints by their similarity (OKS).
        sigmas: for "keypoints": how far each of K may be off, as COCO defines it; those of COCO's 17 of a person by
            default.

    Raises:
        ConfigError: pycocotools is not installed.
    """

    def __init__(
        self,
        iou_type: Literal["bbox", "segm", "keypoints"] = "bbox",
        *,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        if iou_type not in ("bbox", "segm", "keypoints"):
            raise ConfigError(f"CocoEvaluator({iou_type!r}): use 'bbox', 'segm' or 'keypoints'")
        if sigmas is not None and (iou_type != "keypoints" or not sigmas or min(sigmas) <= 0):
            raise ConfigError(f"CocoEvaluator(sigmas={sigmas!r}): numbers above 0, for 'keypoints'")
        self.sigmas = None if sigmas is None else np.array(sigmas, np.float64)
        self._api, self._evaluation = _pycocotools()
        self.iou_type = iou_type
        self.num_images = 0
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def update(self, detections: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
        """Add a batch of images.

        Args:
            detections: `boxes` [N, 4] (x0, y0, x1, y1), `classes` [N] and `scores` [N], each as (values, offsets),
                arrays or tensors; for "segm" also `masks` [N, H, W], for "keypoints" `keypoints` [N, K, 3] (x, y and
                anything) instead of boxes. Coordinates are those of `truth`.
            truth: `boxes`, `classes` and `masks` or `keypoints` (x, y, visibility; 0 is not labelled), as a batch of
                the loader has them; `iscrowd` marks regions that are neither found nor missed, `area` decides which
                objects are small, medium and large, and how far keypoints may be off (that of the mask, or of the
                box, where it is not given; the loader's `area` is of the image as annotated).

        Raises:
            ConfigError: columns are missing, or do not fit one another.
        """
        found = self._objects(detections, "detections", ("scores",))
        there = self._objects(truth, "truth", ())
        if found[1] != there[1]:
            raise ConfigError(f"detections of {found[1]} images, truth of {there[1]}")
        self._found += found[0]
        self._truth += there[0]
        self.num_images += found[1]

    def merge(self, other: CocoEvaluator) -> None:
        """Add what another one, such as that of another rank, was given."""
        for mine, theirs in ((self._found, other._found), (self._truth, other._truth)):
            mine += [{**one, "image_id": one["image_id"] + self.num_images} for one in theirs]
        self.num_images += other.num_images

    def _objects(
        self, columns: Mapping[str, Any], what: str, more: tuple[str, ...]
    ) -> tuple[list[dict[str, Any]], int]:
        """Pycocotools' annotations of a batch, and its number of images."""
        columns = dict(columns)
        if self.iou_type == "keypoints" and what == "detections" and "keypoints" in columns:
            columns["boxes"] = _extent(*_ragged(columns["keypoints"], f"{what}['keypoints']"))
        shapes = {"segm": ("masks",), "keypoints": ("keypoints",)}.get(self.iou_type, ())
        names = ("boxes", "classes", *more, *shapes)
        if missing := [name for name in names if name not in columns]:
            raise ConfigError(f"{what}: no {' and '.join(missing)}; expected {', '.join(names)}")
        names = (*names, *(name for name in ("iscrowd", "area") if what == "truth" and name in columns))
        boxes, offsets = _ragged(columns["boxes"], f"{what}['boxes']")
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ConfigError(f"{what}['boxes']: values of {list(boxes.shape)}, expected [N, 4]")
        values: dict[str, NDArray[Any]] = {}
        for name in names[1:]:
            values[name], own = _ragged(columns[name], f"{what}[{name!r}]")
            if not np.array_equal(own, offsets):
                raise ConfigError(f"{what}[{name!r}]: other offsets than the boxes'")
        if self.iou_type == "keypoints":
            expected = _PERSON_KEYPOINTS if self.sigmas is None else len(self.sigmas)
            if values["keypoints"].shape[1:] != (expected, 3):
                raise ConfigError(
                    f"{what}['keypoints']: values of {list(values['keypoints'].shape)}, expected [N, {expected}, 3]; "
                    "other numbers of keypoints need sigmas="
                )
        sizes = boxes[:, 2:] - boxes[:, :2]
        areas = values.get("area", sizes[:, 0] * sizes[:, 1])
        images = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        objects = []
        for i, image in enumerate(images.tolist()):
            one: dict[str, Any] = {
                "image_id": self.num_images + image,
                "category_id": int(values["classes"][i]),
                "bbox": [*boxes[i, :2].tolist(), *sizes[i].tolist()],
                "area": float(areas[i]),
                "iscrowd": int(values["iscrowd"][i]) if "iscrowd" in values else 0,
            }
            if "scores" in values:
                one["score"] = float(values["scores"][i])
            if self.iou_type == "segm":
                mask = values["masks"][i]
                one["segmentation"] = {"size": list(mask.shape), "counts": encode_rle(mask).encode()}
                if "area" not in values:
                    one["area"] = float(np.count_nonzero(mask))
            if self.iou_type == "keypoints":
                one["keypoints"] = values["keypoints"][i].astype(np.float64).ravel().tolist()
                one["num_keypoints"] = int(np.count_nonzero(values["keypoints"][i][:, 2]))
            objects.append(one)
        return objects, len(offsets) - 1

    def compute(self) -> dict[str, float]:
        """COCO's twelve scores (ten of keypoints) by their names, 0 to 1; -1 where there is nothing to find.

        Returns:
            AP (IoU 0.50 to 0.95), AP50, AP75, of small, medium and large objects (APs, APm, APl); AR1, AR10 and AR100
            with as many detections an image, ARs, ARm, ARl. Of keypoints (OKS 0.50 to 0.95): AP, AP50, AP75, APm, APl,
            AR, AR50, AR75, ARm, ARl.

        Raises:
            ConfigError: no image was added.
        """
        if not self.num_images:
            raise ConfigError("CocoEvaluator.compute(): no image was added by update()")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            evaluation = self._evaluation(self._index(self._truth), self._index(self._found), self.iou_type)
            if self.sigmas is not None:
                evaluation.params.kpt_oks_sigmas = self.sigmas
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        names = KEYPOINT_METRICS if self.iou_type == "keypoints" else METRICS
        return dict(zip(names, map(float, evaluation.stats), strict=True))

    def _index(self, objects: list[dict[str, Any]]) -> Any:
        """Pycocotools' index of annotations. Their ids begin at 1: it takes 0 for an object that was not found."""
        index = self._api()
        classes = sorted({one["category_id"] for one in (*self._truth, *self._found)})
        index.dataset = {
            "images": [{"id": i, "height": 0, "width": 0} for i in range(self.num_images)],
            "categories": [{"id": number} for number in classes],
            "annotations": [{**one, "id": i} for i, one in enumerate(objects, 1)],
        }
        index.createIndex()
        return index


def _pycocotools() -> tuple[Any, Any]:
    try:
        return import_module("pycocotools.coco").COCO, import_module("pycocotools.cocoeval").COCOeval
    except ModuleNotFoundError:
        raise ConfigError(
            'CocoEvaluator needs pycocotools, which is not installed: pip install "headrace[images]"'
        ) from None


def _extent(keypoints: NDArray[Any], offsets: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The boxes around keypoints, as pycocotools draws them for results."""
    if keypoints.ndim != 3 or not keypoints.shape[1]:
        return np.zeros((len(keypoints), 4)), offsets  # the error comes where shapes are checked
    points = keypoints[:, :, :2].astype(np.float64)
    return np.concatenate((points.min(axis=1), points.max(axis=1)), axis=1), offsets


def _ragged(column: Any, where: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Values and offsets of a column, on the host."""
    pair = (column.values, column.offsets) if hasattr(column, "offsets") else column
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ConfigError(f"{where}: {type(column).__name__}, expected (values, offsets)")
    values, offsets = (np.asarray(one.detach().cpu() if hasattr(one, "detach") else one) for one in pair)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values):
        raise ConfigError(f"{where}: offsets do not ascend from 0 to {len(values)}, the number of values")
    if bool((np.diff(offsets) < 0).any()):
        raise ConfigError(f"{where}: offsets do not ascend")
    return values, offsets.astype(np.int64)
