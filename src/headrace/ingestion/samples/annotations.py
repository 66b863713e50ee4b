"""Pascal VOC, CSV and JSON lines -> one row for each image: its path, and its label, boxes and classes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree as ET

import orjson

from headrace.errors import SourceError
from headrace.ingestion.samples.options import Samples
from headrace.ingestion.samples.plan import ImageFile, SamplePlan, image_file
from headrace.store import Array, ClassLabel, Feature, Image, List, Value

BOXES: List = List(Array((4,), "float32"))
_PATHS = ("image_path", "path", "file_name", "filename", "file")
_LABELS = ("class", "category")
_EDGES = ("xmin", "ymin", "xmax", "ymax")
MAX_CLASSES = 100_000
_VOC_MASKS = (("mask", "SegmentationClass"), ("instance_mask", "SegmentationObject"))
AnnotatedImage: TypeAlias = tuple[Path, Mapping[str, Any], Sequence[tuple[Any, list[float]]], str]
"""Path, other columns, (class, box) of each object, and what is wrong with the annotation."""


def plan_voc(files: Sequence[Path], samples: Samples) -> SamplePlan:
    """The plan of Pascal VOC's .xml files, one for each image.

    Raises:
        SourceError: none of them can be read.
    """
    parsed: list[tuple[Path, list[tuple[str, list[float]]], str]] = []
    masks: dict[str, list[Path | None]] = {}
    for file in files:
        try:
            parsed.append(_read_voc(file))
        except (ET.ParseError, ValueError, OSError) as error:
            parsed.append((file, [], f"annotation {file.name}: {error}"))
        for name, folder in _VOC_MASKS:
            mask = file.parent.parent / folder / f"{file.stem}.png"
            masks.setdefault(name, []).append(mask if mask.is_file() else None)
    names = sorted({name for _, objects, _ in parsed for name, _ in objects})
    found = {name: paths for name, paths in masks.items() if any(paths)}
    rows: list[AnnotatedImage] = [(path, {}, objects, fault) for path, objects, fault in parsed]
    return boxes_plan("voc", rows, names, samples, masks=found)


def _read_voc(file: Path) -> tuple[Path, list[tuple[str, list[float]]], str]:
    text = file.read_bytes()
    if b"<!ENTITY" in text or b"<!DOCTYPE" in text:
        raise ValueError("it declares entities")
    root = ET.fromstring(text)  # noqa: S314 - no entities, see above
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, expected <annotation>")
    name = root.findtext("filename") or f"{file.stem}.jpg"
    objects = []
    for one in root.findall("object"):
        box = one.find("bndbox")
        if box is None:
            raise ValueError("an object has no bndbox")
        objects.append((one.findtext("name") or "", [float(box.findtext(edge) or "nan") for edge in _EDGES]))
    return find_image(file.parent, name, ("../JPEGImages", "../images")), objects, ""


def find_image(folder: Path, name: str, others: Sequence[str]) -> Path:
    """The image of an annotation: beside it, or in one of the folders where such data sets have images."""
    base = Path(name.replace("\\", "/"))
    for place in ("", *others):
        for candidate in (folder / place / base, folder / place / base.name):
            if candidate.is_file():
                return candidate
    return folder / base


def boxes_plan(
    layout: str,
    rows: Sequence[AnnotatedImage],
    names: Sequence[str],
    samples: Samples,
    more: Mapping[str, Feature] | None = None,
    masks: Mapping[str, Sequence[Path | None]] | None = None,
) -> SamplePlan:
    """The plan of images with boxes.

    Args:
        layout: its name, for the notes.
        rows: see `AnnotatedImage`; a class is one of `names`, or its number.
        names: of the classes.
        samples: bytes of a shard.
        more: other columns.
        masks: columns of masks: the path of each image's, None where it has none.
    """
    features: dict[str, Feature] = {
        "image": Image(),
        "boxes": BOXES,
        "classes": List(ClassLabel(tuple(names))),
        "name": Value("string"),
        **(more or {}),
        **dict.fromkeys(masks or (), Image()),
    }
    plan = SamplePlan(layout=layout, features=features)
    numbers = {name: i for i, name in enumerate(names)}
    files: list[ImageFile] = []
    for number, (path, values, objects, given) in enumerate(rows):
        boxes = [box for _, box in objects]
        fault = given or _box_fault(boxes)
        classes = [numbers[name] if isinstance(name, str) else name for name, _ in objects]
        own = {name: paths[number] for name, paths in (masks or {}).items()}
        columns = {"boxes": boxes, "classes": classes, "name": path.name, **values}
        files.append(image_file(path, columns, masks=own, fault=fault))
    plan.add_files(files, samples.shard_bytes)
    return plan


def _box_fault(boxes: Sequence[Sequence[float]]) -> str:
    for box in boxes:
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            return f"box {list(box)}: expected x0 < x1 and y0 < y1"
    return ""


def plan_records(file: Path, samples: Samples) -> SamplePlan:
    """The plan of a CSV or of JSON lines: a path and a label each, or a box each (xmin, ymin, xmax, ymax, label).

    Raises:
        SourceError: damaged, or without a column of paths.
    """
    records = _read_records(file)
    keys = list(records[0]) if records else []
    for option in ("image_field", "label_field"):
        name = getattr(samples, option)
        if name != getattr(Samples(), option) and name not in keys:
            raise SourceError(
                f"{file}: no column {name!r} ({option}); the columns are: {', '.join(map(str, keys))}"
            )
    image = next((name for name in (samples.image_field, *_PATHS) if name in keys), None)
    if image is None:
        raise SourceError(
            f"{file}: no column of paths; the columns are: {', '.join(keys)}. Name it with --image-field; for pairs of "
            "texts give --layout pairs"
        )
    label = next((name for name in (samples.label_field, *_LABELS) if name in keys), None)
    if all(edge in keys for edge in _EDGES):
        return _plan_box_records(file, records, image, label, samples)
    features: dict[str, Feature] = {"image": Image(), "name": Value("string")}
    names: list[str] = []
    if label is not None:
        names = _class_names(file, [record.get(label) for record in records])
        features = {"image": Image(), "label": ClassLabel(tuple(names)), "name": Value("string")}
    numbers = {name: i for i, name in enumerate(names)}
    plan = SamplePlan(layout="csv" if file.suffix == ".csv" else "jsonl", features=features)
    files = []
    for record in records:
        path = file.parent / str(record.get(image) or "")
        values: dict[str, Any] = {"name": str(record.get(image))}
        fault = ""
        if label is not None:
            value = record.get(label)
            fault = "" if value not in (None, "") else f"no value for {label!r}"
            values["label"] = numbers.get(str(value), -1)
        files.append(image_file(path, values, fault=fault))
    plan.add_files(files, samples.shard_bytes)
    return plan


def _plan_box_records(
    file: Path, records: Sequence[Mapping[str, Any]], image: str, label: str | None, samples: Samples
) -> SamplePlan:
    names = ["object"] if label is None else _class_names(file, [record.get(label) for record in records])
    grouped: dict[str, list[tuple[str, list[float]]]] = {}
    faults: dict[str, str] = {}
    for record in records:
        path = str(record.get(image) or "")
        boxes = grouped.setdefault(path, [])
        try:
            box = [float(record[edge]) for edge in _EDGES]
        except (TypeError, ValueError) as error:
            faults[path] = f"a box that is no number: {error}"
            continue
        boxes.append(("object" if label is None else str(record.get(label)), box))
    rows: list[AnnotatedImage] = [
        (file.parent / path, {}, boxes, faults.get(path, "")) for path, boxes in grouped.items()
    ]
    return boxes_plan("csv", rows, names, samples)


def _class_names(file: Path, values: Sequence[Any]) -> list[str]:
    """Distinct labels, sorted; as numbers where all of them are."""
    names = {str(value) for value in values if value not in (None, "")}
    if len(names) > MAX_CLASSES:
        raise SourceError(f"{file}: {len(names):,} different labels; the limit is {MAX_CLASSES:,}")
    return sorted(names, key=(lambda name: (int(name), name)) if all(map(_is_integer, names)) else None)


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _read_records(file: Path) -> list[dict[str, Any]]:
    try:
        if file.suffix == ".csv":
            with file.open(encoding="utf-8-sig", newline="") as lines:
                return list(csv.DictReader(lines))
        return [dict(orjson.loads(line)) for line in file.read_bytes().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error, orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from error
