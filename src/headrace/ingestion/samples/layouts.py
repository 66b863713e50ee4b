"""Files and directories, as typed -> the plan of a job: which layout they have, and their units."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from headrace.errors import ConfigError, SourceError
from headrace.ingestion.samples.annotations import plan_records, plan_voc
from headrace.ingestion.samples.coco import plan_coco
from headrace.ingestion.samples.options import Samples
from headrace.ingestion.samples.plan import (
    ImageFile,
    SamplePlan,
    image_file,
    images_below,
    source_file,
)
from headrace.ingestion.samples.tables import plan_idx, plan_tables
from headrace.ingestion.samples.yolo import plan_yolo
from headrace.paths import given_path
from headrace.store import ClassLabel, Feature, Image, Value

_SUFFIXES = {
    "tar": (".tar",),
    "table": (".parquet", ".arrow"),
    "voc": (".xml",),
    "coco": (".json",),
    "csv": (".csv",),
    "jsonl": (".jsonl",),
}
_WITH_FIELDS = ("table", "csv", "jsonl")
"""Layouts whose sources have named columns."""
_IDX = ("idx3-ubyte", "idx4-ubyte", "idx3-ubyte.gz", "idx4-ubyte.gz")


def plan_samples(sources: Sequence[str | os.PathLike[str]], samples: Samples) -> SamplePlan:
    """The plan of a job.

    Args:
        sources: one directory, or files of one layout.
        samples: the layout, and the names of columns.

    Raises:
        ConfigError: sources that do not go together.
        SourceError: missing, damaged, or of no layout that is known.
    """
    paths = _existing(sources)
    directory = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    files = _files(directory) if directory is not None else sorted(paths)
    layout = samples.layout if samples.layout != "auto" else _layout_of(directory, files)
    check_fields(layout, samples)
    suffixes = _SUFFIXES.get(layout)
    if suffixes is not None:
        files = [file for file in files if file.suffix in suffixes]
        if not files:
            raise SourceError(f"{paths[0]}: no images in it (layout {layout} has files {' '.join(suffixes)})")
    if layout in ("folders", "masks", "yolo"):
        if directory is None:
            raise ConfigError(f"layout {layout} is one directory; give its path alone")
        planner = {"folders": _plan_folders, "masks": _plan_masks, "yolo": plan_yolo}[layout]
        plan = planner(directory, samples)
    elif layout == "tar":
        plan = _plan_tars(files)
    elif layout == "table":
        plan = plan_tables(files, samples)
    elif layout == "voc":
        plan = plan_voc(files, samples)
    elif layout == "coco":
        plan = plan_coco(_single(files, layout), samples)
    elif layout == "idx":
        plan = _plan_idx(files)
    else:
        plan = plan_records(_single(files, layout), samples)
    if not plan.units:
        raise SourceError(f"{paths[0]}: no images in it (layout {layout})")
    plan.notes.insert(
        0, f"layout {layout}" + ("" if samples.layout != "auto" else ", by the names of the files")
    )
    return plan


def check_fields(layout: str, samples: Samples) -> None:
    """Refuse names of columns for a layout that has none."""
    named = [
        name for name in ("image_field", "label_field") if getattr(samples, name) != getattr(Samples(), name)
    ]
    if named and layout not in _WITH_FIELDS:
        cure = (
            "Name the fields of pairs with --field"
            if layout == "pairs"
            else "Leave it out, or name the --layout"
        )
        raise ConfigError(
            f"{' and '.join(named)}: not an option of layout {layout}, but of {', '.join(_WITH_FIELDS)}. {cure}"
        )


def _existing(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    for source in sources:
        if "://" in os.fspath(source):
            raise ConfigError(f"{source}: images are read from local files; fetch them first")
    paths = [Path(given_path(source, name="ingest: a source")) for source in sources]
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path}: no such file or directory")
    if not paths:
        raise SourceError("no sources were given; expected a directory or files")
    return paths


def _files(directory: Path) -> list[Path]:
    """Files directly in a directory and in its folders for data, hidden ones left out."""
    found = []
    for folder in (directory, directory / "data", directory / "Annotations", directory / "annotations"):
        if folder.is_dir():
            found += [
                file for file in sorted(folder.iterdir()) if file.is_file() and file.name[0] not in "._"
            ]
    return found


def _layout_of(directory: Path | None, files: Sequence[Path]) -> str:
    names = [file.name for file in files]
    suffixes = {file.suffix for file in files}
    for layout, found in (
        ("voc", ".xml" in suffixes),
        ("tar", ".tar" in suffixes),
        ("table", bool({".parquet", ".arrow"} & suffixes)),
        ("idx", any(name.endswith(_IDX) for name in names)),
        ("csv", ".csv" in suffixes),
        ("jsonl", ".jsonl" in suffixes),
        ("coco", any(file.suffix == ".json" and b'"annotations"' in file.read_bytes() for file in files)),
    ):
        if found:
            return layout
    if directory is not None and (
        "data.yaml" in names or ((directory / "images").is_dir() and (directory / "labels").is_dir())
    ):
        return "yolo"
    if directory is not None and (directory / "images").is_dir() and (directory / "masks").is_dir():
        return "masks"
    if directory is not None:
        return "folders"
    raise SourceError(f"{files[0]}: of no layout that is known. Give a directory, or name the --layout")


def _single(files: Sequence[Path], layout: str) -> Path:
    if len(files) != 1:
        named = ", ".join(file.name for file in files[:4]) or "none"
        raise ConfigError(f"layout {layout} is one file; found {named}. Give the file's own path")
    return files[0]


def _plan_folders(directory: Path, samples: Samples) -> SamplePlan:
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] not in "._")
    features: dict[str, Feature] = {"image": Image(), "name": Value("string")}
    files: list[ImageFile] = []
    names: list[str] = []
    notes = []
    for folder in folders:
        found = list(images_below(folder))
        if not found:
            notes.append(f"{folder}: no images in it; it is no class")
            continue
        for path in found:
            values = {"label": len(names), "name": path.relative_to(directory).as_posix()}
            files.append(image_file(path, values))
        names.append(folder.name)
    if names:
        features = {"image": Image(), "label": ClassLabel(tuple(names)), "name": Value("string")}
    else:  # images without classes
        files = [image_file(path, {"name": path.name}) for path in images_below(directory)]
    plan = SamplePlan(layout="folders", features=features, notes=notes)
    plan.add_files(files, samples.shard_bytes)
    return plan


def _plan_masks(directory: Path, samples: Samples) -> SamplePlan:
    masks = {path.stem: path for path in images_below(directory / "masks")}
    files = []
    for path in images_below(directory / "images"):
        mask = masks.get(path.stem)
        fault = "" if mask is not None else f"no mask of its name in {directory / 'masks'}"
        files.append(image_file(path, {"name": path.name}, masks={"mask": mask}, fault=fault))
    features: dict[str, Feature] = {"image": Image(), "mask": Image(), "name": Value("string")}
    plan = SamplePlan(layout="masks", features=features)
    plan.add_files(files, samples.shard_bytes)
    return plan


def _plan_tars(files: Sequence[Path]) -> SamplePlan:
    """The plan of WebDataset tars: the columns are those of the first sample."""
    features: dict[str, Feature] = {"image": Image()}
    with tarfile.open(files[0]) as tar:
        first = None
        for member in tar:
            stem, _, extension = member.name.partition(".")
            if not member.isfile() or (first is not None and stem != first):
                break
            first = stem
            if extension == "cls":
                features["label"] = Value("int64")
            elif extension == "txt":
                features["text"] = Value("string")
            elif extension == "json":
                features["json"] = Value("string")
            elif extension in ("mask.png", "seg.png"):
                features["mask"] = Image()
    features["name"] = Value("string")
    plan = SamplePlan(layout="tar", features=features)
    for file in files:
        source = source_file(file)
        plan.add("tar", [source], source[1])
    return plan


def _plan_idx(files: Sequence[Path]) -> SamplePlan:
    images = [file for file in files if file.name.endswith(_IDX)]
    if len(images) != 1:
        named = ", ".join(file.name for file in images)
        raise ConfigError(
            f"layout idx is one file of images and one of labels; found {named}. Give both files' paths"
        )
    prefix = images[0].name.partition("images")[0]
    labels = [file for file in files if "labels" in file.name and file.name.startswith(prefix)]
    if not labels:
        raise SourceError(f"{images[0]}: no labels beside it ({prefix}labels-idx1-ubyte)")
    return plan_idx(images[0], labels[0])
