"""A unit -> its rows in order, each image decoded once to see that it is whole; bad rows as rejects."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from headrace.errors import DocumentError, SourceError
from headrace.images import ImageHeader, check_image, decode_mask, encode_png, rle_of_segmentation
from headrace.ingestion.document import Reject
from headrace.ingestion.samples.plan import ImageFile, SampleUnit
from headrace.ingestion.samples.tables import idx_rows, table_rows
from headrace.store import Array, Features

Row: TypeAlias = dict[str, Any]
_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "image", "img")
_ANNOTATION_FAULTS = (
    "annotation", "box ", "segmentation", "run lengths", "category ", "no mask", "no value", "its mask", "a box",
    "a mask", "damaged mask",
)  # fmt: skip
"""How the details begin of what is wrong beside the image."""
_MAX_MEMBER_BYTES = 1 << 30


def read_rows(unit: SampleUnit, features: Features, label_field: str) -> Iterator[Row | Reject]:
    """Rows of a unit, in the store's order.

    Raises:
        SourceError: a file is missing, damaged as a whole, or has changed since the job was planned.
    """
    if unit.kind == "files":
        for file in unit.items:
            yield _file_row(file)
        return
    for item in unit.items:
        _check_unchanged(item)
        if unit.kind == "tar":
            yield from _tar_rows(item[0], features)
            continue
        rows = idx_rows(item) if unit.kind == "idx" else table_rows(item, dict(features), label_field)
        for number, row in rows:
            fault = _fault(row, features)
            yield row if not fault else _reject(item[0], fault, offset=number, line=number + 1)


def _reject(source: str, detail: str, *, offset: int = 0, line: int | None = None) -> Reject:
    is_annotation = detail.startswith(_ANNOTATION_FAULTS)
    reason = "bad_annotation" if is_annotation else "damaged_image"
    return Reject(source=source, offset=offset, line=line, reason=reason, detail=detail)


def _check_unchanged(item: Any) -> None:
    path, nbytes, modified_ns = item[:3]
    status = Path(path).stat()
    if (status.st_size, status.st_mtime_ns) != (nbytes, modified_ns):
        raise SourceError(f"{path}: changed while it was read. Run the same command again with --restart")


def _file_row(file: ImageFile) -> Row | Reject:
    if file.fault:
        return _reject(file.path, file.fault)
    _check_unchanged((file.path, file.nbytes, file.modified_ns))
    row = {**file.values, "image": Path(file.path).read_bytes()}
    for name, path in file.masks.items():
        row[name] = Path(path).read_bytes() if path else b""
    fault = _fault(row, {})
    return row if not fault else _reject(file.path, fault)


def _fault(row: Row, features: Features) -> str:
    """What is wrong with a row's image or mask; "" where nothing is. A mask becomes a PNG."""
    if isinstance(features.get("image"), Array):
        return ""
    for name in features:
        if row.get(name) is None:
            return f"no value for the column {name!r}" if name != "image" else "no image"
    try:
        header = check_image(row["image"])
        _check_annotations(row, header)
    except DocumentError as error:
        return str(error)
    return ""


def _check_annotations(row: Row, header: ImageHeader) -> None:
    """Check what belongs to an image's pixels; masks become PNGs, and segmentations run lengths.

    Raises:
        DocumentError: of another size than the image, or damaged.
    """
    size = f"{header.width} x {header.height}"
    height, width = row.pop("annotated_size", (header.height, header.width))
    if (height, width) != (header.height, header.width):
        raise DocumentError(f"annotation of an image of {width} x {height}; as it is shown, it is {size}")
    for name in ("mask", "instance_mask"):
        if not row.get(name):
            continue
        mask = decode_mask(row[name])
        if mask.shape != (header.height, header.width):
            raise DocumentError(f"its mask is {mask.shape[1]} x {mask.shape[0]}, the image {size}")
        if row[name][:4] != b"\x89PNG":
            if int(mask.min()) < 0 or int(mask.max()) > 65_535:
                raise DocumentError(f"its mask has values {mask.min()} to {mask.max()}, expected 0 to 65535")
            row[name] = encode_png(mask.astype("uint8" if int(mask.max()) < 256 else "uint16"))
    if isinstance(row.get("masks"), str):  # a plan's segmentations, as JSON
        row["masks"] = [
            "" if one is None else rle_of_segmentation(one, header.height, header.width)
            for one in orjson.loads(row["masks"])
        ]


def _tar_rows(path: str, features: Features) -> Iterator[Row | Reject]:
    """Samples of a WebDataset tar: members that share a name up to the first dot."""
    key, offset, members = None, 0, dict[str, bytes]()
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                if not member.isfile() or base.startswith(("._", "__")):
                    continue
                stem, _, extension = base.partition(".")
                name = f"{folder}/{stem}" if folder else stem
                if name != key:
                    if key is not None:
                        yield _tar_row(path, key, offset, members, features)
                    key, offset, members = name, member.offset, {}
                content = tar.extractfile(member)
                if content is None or member.size > _MAX_MEMBER_BYTES:
                    raise SourceError(
                        f"{path}: the member {member.name!r} of {member.size:,} bytes cannot be read"
                    )
                members[extension.lower()] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceError(f"{path}: damaged tar: {error}. Fetch it again") from error
    if key is not None:
        yield _tar_row(path, key, offset, members, features)


def _tar_row(path: str, key: str, offset: int, members: dict[str, bytes], features: Features) -> Row | Reject:
    image = next((members[extension] for extension in _IMAGE_EXTENSIONS if extension in members), None)
    row: Row = {"name": key, "image": image}
    try:
        for column, extensions in (("label", ("cls",)), ("text", ("txt",)), ("json", ("json",))):
            data = next((members[one] for one in extensions if one in members), None)
            if column in features and data is not None:
                row[column] = int(data) if column == "label" else data.decode()
    except (ValueError, UnicodeDecodeError) as error:
        return _reject(path, f"annotation of sample {key}: {error}", offset=offset)
    if "mask" in features:
        row["mask"] = members.get("mask.png", members.get("seg.png"))
    fault = _fault(row, features)
    return row if not fault else _reject(path, f"{fault} (sample {key})", offset=offset)
