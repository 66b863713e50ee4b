"""A COCO .json -> one row for each image: boxes, classes, instance masks and keypoints of its objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import SourceError
from headrace.ingestion.samples.annotations import AnnotatedImage, boxes_plan, find_image
from headrace.ingestion.samples.options import Samples
from headrace.ingestion.samples.plan import SamplePlan
from headrace.store import Array, Feature, List, Value


def plan_coco(file: Path, samples: Samples) -> SamplePlan:
    """The plan of a COCO .json: boxes as corners, classes by the order of the category ids.

    Segmentations and keypoints become columns where an object has one; they are read with the image, by workers.

    Raises:
        SourceError: it is damaged or not COCO's.
    """
    try:
        data = orjson.loads(file.read_bytes())
        categories = {one["id"]: one for one in sorted(data["categories"], key=lambda c: c["id"])}
        names = [str(one["name"]) for one in categories.values()]
        images = {one["id"]: one for one in data["images"]}
        paths = {number: str(one["file_name"]) for number, one in images.items()}
        objects: dict[Any, list[Any]] = {number: [] for number in images}
        for one in data["annotations"]:
            objects[one["image_id"]].append(one)
        points = _keypoint_names(categories.values(), data["annotations"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{file}: not COCO's annotations: {error!r}") from error
    numbers = {number: i for i, number in enumerate(categories)}
    with_masks = any(one.get("segmentation") for one in data["annotations"])
    rows: list[AnnotatedImage] = []
    for number, found in objects.items():
        fault = next((text for text in (_object_fault(one, numbers, points) for one in found) if text), "")
        values: dict[str, Any] = {
            "image_id": number,
            "iscrowd": [int(one.get("iscrowd", 0)) for one in found],
            "area": [float(one.get("area", 0)) for one in found],
        }
        if points:
            values["keypoints"] = [_keypoints(one, len(points)) for one in found] if not fault else []
        if with_masks:
            # JSON: a tenth of the memory of Python's numbers.
            values["masks"] = orjson.dumps([one.get("segmentation") or None for one in found]).decode()
        pairs = [(numbers.get(one.get("category_id"), -1), _corners(one)) for one in found]
        path = find_image(file.parent, paths[number], ("images", "..", "../images"))
        rows.append((path, {**values, **_size(images[number])}, pairs, fault))
    more: dict[str, Feature] = {
        "image_id": Value("int64"),
        "iscrowd": List(Value("uint8")),
        "area": List(Value("float32")),
    }
    if with_masks:
        more["masks"] = List(Value("string"))
    if points:
        more["keypoints"] = List(Array((len(points), 3), "float32"))
    plan = boxes_plan("coco", rows, names, samples, more)
    plan.extra["category_ids"] = list(categories)
    if points:
        plan.extra["keypoint_names"] = points
    without = sum(1 for one in data["annotations"] if not one.get("segmentation"))
    if with_masks and without:
        plan.notes.append(f"{file}: {without:,} objects have no segmentation; their masks are empty")
    return plan


def _corners(one: Mapping[str, Any]) -> list[float]:
    x, y, width, height = one.get("bbox") or (0, 0, 0, 0)
    return [x, y, x + width, y + height]


def _size(image: Mapping[str, Any]) -> dict[str, Any]:
    """Height and width that the annotations are for; checked beside the image."""
    if not image.get("height") or not image.get("width"):
        return {}
    return {"annotated_size": [int(image["height"]), int(image["width"])]}


def _object_fault(one: Mapping[str, Any], numbers: Mapping[Any, int], points: Sequence[str]) -> str:
    if one.get("category_id") not in numbers:
        return f"category {one.get('category_id')!r} is none of the file's"
    given = one.get("keypoints")
    if points and given and len(given) != 3 * len(points):
        return f"annotation {one.get('id')}: {len(given)} numbers of keypoints, expected {3 * len(points)}"
    return ""


def _keypoints(one: Mapping[str, Any], count: int) -> list[list[float]]:
    """[count, 3]: x, y, and 0 not labelled, 1 hidden, 2 visible."""
    values = one.get("keypoints") or [0] * (3 * count)
    return [values[i : i + 3] for i in range(0, 3 * count, 3)]


def _keypoint_names(
    categories: Sequence[Mapping[str, Any]] | Any, annotations: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Names of the keypoints of an object; [] where objects have none.

    Raises:
        KeyError: objects have keypoints, and no category names them.
    """
    if not any(one.get("keypoints") for one in annotations):
        return []
    lists = {tuple(map(str, one["keypoints"])) for one in categories if one.get("keypoints")}
    if len(lists) != 1:
        raise KeyError(f"{len(lists)} lists of keypoints in the categories, expected one")
    return list(lists.pop())
