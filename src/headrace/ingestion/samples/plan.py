"""Rows of image files, parts of tars and tables -> units of work, which do not depend on the number of workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import xxhash

from headrace.errors import SourceError
from headrace.store import Feature, features_to_json

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
UnitKind: TypeAlias = Literal["files", "tar", "table", "idx", "pairs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A row whose image is a file of its own."""

    path: str
    nbytes: int
    modified_ns: int
    values: Mapping[str, Any]
    """The other columns."""
    masks: Mapping[str, str] = field(default_factory=dict)
    """Columns of masks and the paths of their images; "" for none."""
    fault: str = ""
    """What is wrong with its annotation; the row is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleUnit:
    """The work that a worker does at a time, and that is done again after a crash."""

    number: int
    kind: UnitKind
    items: tuple[Any, ...]
    nbytes: int
    """Stored bytes of its sources."""

    @property
    def key(self) -> str:
        """Its name, which sorts in the order of the store."""
        return f"{self.number:07d}"


@dataclass(kw_only=True)
class SamplePlan:
    """All units of a job, and the columns of its store."""

    layout: str
    features: dict[str, Feature]
    units: list[SampleUnit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    """Facts for the manifest, such as COCO's category ids."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that determine the bytes of the rows, beside the units."""

    def add(self, kind: UnitKind, items: Iterable[Any], nbytes: int) -> None:
        """Append a unit."""
        self.units.append(SampleUnit(number=len(self.units), kind=kind, items=tuple(items), nbytes=nbytes))

    def add_files(self, files: Iterable[ImageFile], shard_bytes: int) -> None:
        """Append units of image files, each closed once it has this many bytes."""
        group: list[ImageFile] = []
        size = 0
        for file in files:
            group.append(file)
            size += file.nbytes
            if size >= shard_bytes:
                self.add("files", group, size)
                group, size = [], 0
        if group:
            self.add("files", group, size)

    def fingerprint(self) -> str:
        """32 hex digits of everything that determines the store's bytes."""
        digest = xxhash.xxh3_128(orjson.dumps(features_to_json(self.features)))
        if self.options:
            digest.update(orjson.dumps(self.options, option=orjson.OPT_SORT_KEYS))
        for unit in self.units:
            digest.update(orjson.dumps([unit.kind, unit.items], default=list))
        return digest.hexdigest()


def image_file(
    path: Path, values: Mapping[str, Any], *, masks: Mapping[str, Path | None] | None = None, fault: str = ""
) -> ImageFile:
    """A row of an image file, with its size.

    Raises:
        SourceError: there is no such file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - one call a file, as few objects as can be
    except OSError as error:
        if not fault:
            fault = f"{error.strerror or error}"
        return ImageFile(path=str(path), nbytes=0, modified_ns=0, values=values, fault=fault)
    return ImageFile(
        path=str(path),
        nbytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        values=values,
        masks={name: "" if mask is None else str(mask) for name, mask in (masks or {}).items()},
        fault=fault,
    )


def source_file(path: Path) -> tuple[str, int, int]:
    """A source's path, size and time of change.

    Raises:
        SourceError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    return str(path), status.st_size, status.st_mtime_ns


def images_below(folder: Path) -> Iterator[Path]:
    """Images in a folder and its folders, sorted, hidden ones left out."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir():
                yield from images_below(Path(entry.path))
            elif entry.name.lower().endswith(IMAGES):
                yield Path(entry.path)
