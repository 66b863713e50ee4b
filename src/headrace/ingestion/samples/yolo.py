"""YOLO's text files, images/ and labels/ and the names of the classes -> one row for each image: boxes and classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from headrace.errors import DocumentError, SourceError
from headrace.images import read_header
from headrace.ingestion.samples.annotations import boxes_plan
from headrace.ingestion.samples.options import Samples
from headrace.ingestion.samples.plan import SamplePlan, images_below
from headrace.store import Feature, List, Value

_NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "labels/classes.txt", "obj.names", "../data.yaml")
_COMMENT = re.compile(r"""("[^"]*"|'[^']*')|(?:^|\s)#.*$""")
_QUOTED = re.compile(r"""^(['"])(.*)\1$""")


def plan_yolo(directory: Path, samples: Samples) -> SamplePlan:
    """The plan of YOLO's files: a line is a class number and a box (x, y of its centre, width, height; shares of the
    image), or a class number and the corners of a polygon, which becomes a mask and the box around it.

    Raises:
        SourceError: no class names, or names that cannot be read.
    """
    images, labels = directory / "images", directory / "labels"
    if not images.is_dir() or not labels.is_dir():
        splits = sorted(path.parent.name for path in directory.glob("*/images"))
        named = f"; give one of its folders: {', '.join(splits)}" if splits else ""
        raise SourceError(f"{directory}: expected images/ and labels/ in it (layout yolo){named}")
    names = _class_names(directory)
    notes = []
    rows: list[tuple[Path, dict[str, Any], list[tuple[Any, list[float]]], str]] = []
    polygons = unlabelled = 0
    left = {path for path in labels.rglob("*.txt") if path.name != "classes.txt"}
    for path in images_below(images):
        label = labels / path.relative_to(images).with_suffix(".txt")
        pairs: list[tuple[Any, list[float]]] = []
        segmentations: list[Any] = []
        fault = ""
        if label in left:
            try:
                pairs, segmentations = _read_label(label, path, len(names))
                polygons += sum(one is not None for one in segmentations)
            except (DocumentError, OSError, ValueError) as error:
                fault = f"annotation {label.name}: {error}"
        else:
            unlabelled += 1
        left.discard(label)
        values = {"name": path.relative_to(images).as_posix(), "masks": orjson.dumps(segmentations).decode()}
        rows.append((path, values, pairs, fault))
    rows += [
        (path, {}, [], f"annotation {path.name}: no image of its name in images/") for path in sorted(left)
    ]
    if not polygons:
        for _, values, _, _ in rows:
            values.pop("masks", None)
    more: dict[str, Feature] = {"masks": List(Value("string"))} if polygons else {}
    plan = boxes_plan("yolo", rows, names, samples, more)
    if unlabelled:
        notes.append(f"{unlabelled:,} images have no file in labels/: images without objects")
    if polygons:
        notes.append(f"{polygons:,} polygons: masks, and the boxes around them")
    plan.notes += notes
    return plan


def _read_label(label: Path, image: Path, classes: int) -> tuple[list[tuple[Any, list[float]]], list[Any]]:
    """(class, box in pixels) of each line, and its polygon; None where the line is a box.

    Raises:
        ValueError: a line that is none.
        DocumentError: the image's size cannot be read.
    """
    lines = [line.split() for line in label.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return [], []
    header = read_header(image.read_bytes())
    pairs: list[tuple[Any, list[float]]] = []
    segmentations: list[Any] = []
    for number, line in enumerate(lines, 1):
        if len(line) != 5 and (len(line) < 7 or len(line) % 2 == 0):
            raise ValueError(f"line {number} has {len(line)} values; expected a class and a box or polygon")
        kind = int(line[0])
        values = np.array([float(value) for value in line[1:]])
        if not 0 <= kind < classes:
            raise ValueError(f"line {number}: class {kind}; there are names for {classes} classes")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"line {number}: {line[1:]}: expected shares of the image, 0 to 1")
        if len(values) == 4:
            x, y, width, height = values
            shares = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        else:
            points = values.reshape(-1, 2)
            shares = np.concatenate((points.min(axis=0), points.max(axis=0)))
        size = np.array([header.width, header.height] * 2)
        box = np.clip(shares * size, 0, size)
        pairs.append((kind, [float(value) for value in box]))
        polygon = (values.reshape(-1, 2) * size[:2]).ravel().tolist()
        segmentations.append([polygon] if len(values) > 4 else None)
    return pairs, segmentations


def _class_names(directory: Path) -> list[str]:
    """Names of the classes: of data.yaml (`names:`, a list or numbers and names), or a line each.

    Raises:
        SourceError: there is no such file, or it has no names.
    """
    file = next((directory / name for name in _NAMES if (directory / name).is_file()), None)
    if file is None:
        raise SourceError(f"{directory}: no names of classes; expected one of: {', '.join(_NAMES)}")
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    names = [line.strip() for line in lines if line.strip()] if file.suffix != ".yaml" else _yaml_names(lines)
    if not names:
        raise SourceError(
            f"{file}: no names of classes in it; expected names: [first, second] or a line each"
        )
    return names


def _yaml_names(lines: Sequence[str]) -> list[str]:
    """The value of `names:` in the forms that such files have; [] where it has another."""
    at = next((i for i, line in enumerate(lines) if line.startswith("names:")), None)
    if at is None:
        return []
    rest = _uncommented(lines[at].removeprefix("names:"))
    if rest:
        return _flow_names(rest, lines[at + 1 :])
    names: list[str] = []
    for line in lines[at + 1 :]:
        text = _uncommented(line)
        if not text:
            continue
        if not line.startswith((" ", "-")):
            break
        if text.startswith("- "):
            names.append(_plain(text[2:]))
            continue
        number, _, name = text.partition(":")
        if not number.strip().isdigit() or int(number) != len(names):  # numbers from 0 on, in order
            return []
        names.append(_plain(name))
    return names


def _flow_names(text: str, more: Sequence[str]) -> list[str]:
    """Names of `[first, 'second']`, which may go on over further lines."""
    for line in more:
        if "]" in text:
            break
        text += " " + _uncommented(line)
    if not (text.startswith("[") and text.endswith("]")):
        return []
    try:
        return [str(name) for name in json.loads(text)]
    except json.JSONDecodeError:
        parts = re.findall(r"""\s*('[^']*'|"[^"]*"|[^,'"]+)\s*(?:,|$)""", text[1:-1])
        return [_plain(part) for part in parts if part.strip()]


def _uncommented(text: str) -> str:
    """The text without its comment; a # between quotes begins none."""
    return _COMMENT.sub(lambda found: found[1] or "", text).strip()


def _plain(text: str) -> str:
    found = _QUOTED.match(text.strip())
    return found[2] if found else text.strip()
