"""Parquet and Arrow files with a column of images, and MNIST's idx files -> plans, and rows."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from headrace.errors import SourceError
from headrace.ingestion.samples.options import Samples
from headrace.ingestion.samples.plan import SamplePlan, source_file
from headrace.storage import arrow_errors, refuse_encrypted, validate_arrow
from headrace.store import Array, ClassLabel, Feature, Image, Value

_IDX_ROWS = 1 << 14
_NUMBERS = {
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "halffloat", "float", "double",
}  # fmt: skip
_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}


def plan_tables(files: Sequence[Path], samples: Samples) -> SamplePlan:
    """The plan of Parquet files, or of Arrow files as `datasets` writes them: an image column, a label, plain columns.

    Raises:
        SourceError: damaged, without an image column, or with columns that differ between files.
    """
    import pyarrow.parquet as pq

    plan: SamplePlan | None = None
    for file in files:
        path, nbytes, changed = source_file(file)
        with arrow_errors(f"{file}: damaged", error=SourceError):
            if file.suffix == ".arrow":
                schema, groups = _open_arrow(path).schema, 1
            else:
                with file.open("rb") as raw:
                    refuse_encrypted(raw, path)
                parquet = pq.ParquetFile(path)
                schema, groups = parquet.schema_arrow, parquet.metadata.num_row_groups
        features, notes = _features(file, schema, samples)
        if plan is None:
            plan = SamplePlan(layout="table", features=features, notes=notes)
        elif features != plan.features:
            raise SourceError(f"{file}: its columns are {features}, those of {files[0]} are {plan.features}")
        for group in range(groups):
            plan.add("table", [(path, nbytes, changed, group, samples.image_field)], nbytes // max(groups, 1))
    assert plan is not None
    return plan


def _features(file: Path, schema: Any, samples: Samples) -> tuple[dict[str, Feature], list[str]]:
    import pyarrow as pa

    if samples.image_field not in schema.names:
        raise SourceError(
            f"{file}: no column {samples.image_field!r}; the columns are: {', '.join(schema.names)}. "
            "Name the one with the images with --image-field"
        )
    if samples.label_field != Samples().label_field and samples.label_field not in schema.names:
        raise SourceError(
            f"{file}: no column {samples.label_field!r} (label_field); the columns are: {', '.join(schema.names)}"
        )
    kind = schema.field(samples.image_field).type
    is_struct = pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]
    if not is_struct and not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise SourceError(
            f"{file}: the column {samples.image_field!r} is {kind}; expected binary, or a struct with bytes"
        )
    about = orjson.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    described = about.get("info", {}).get("features", {})
    features: dict[str, Feature] = {"image": Image()}
    left_out = []
    for field in schema:
        if field.name == samples.image_field:
            continue
        names = (
            described.get(field.name, {}).get("names")
            if isinstance(described.get(field.name), dict)
            else None
        )
        to = "label" if field.name == samples.label_field else field.name
        text = str(field.type)
        if names:
            features[to] = ClassLabel(tuple(names))
        elif text in _NUMBERS:
            features[to] = Value(_NAMES.get(text, text))
        elif text in ("string", "large_string"):
            features[to] = Value("string")
        else:
            left_out.append(f"{field.name} ({field.type})")
    notes = [f"{file}: columns were left out: {', '.join(left_out)}"] if left_out else []
    return features, notes


def _open_arrow(path: str) -> Any:
    import pyarrow as pa

    source = pa.memory_map(path)
    start = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if start == b"ARROW1" else pa.ipc.open_stream(source)


def _arrow_batches(path: str) -> Iterator[Any]:
    reader = _open_arrow(path)
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(reader)


def table_rows(
    item: Sequence[Any], features: dict[str, Feature], label_field: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of one row group, or of an Arrow file: number in the file's group, and values.

    Raises:
        SourceError: damaged.
    """
    import pyarrow.parquet as pq

    path, _, _, group, image_field = item
    with arrow_errors(f"{path}: damaged", error=SourceError):
        if path.endswith(".arrow"):
            batches = _arrow_batches(path)
        else:
            batches = (
                pq.ParquetFile(path).read_row_group(group, use_threads=False).to_batches(max_chunksize=256)
            )
        number = 0
        for batch in batches:
            checked = validate_arrow(batch, where=f"{path}: group {group}", error=SourceError)
            for row in checked.to_pylist():
                image = row[image_field]
                values = {"image": image.get("bytes") if isinstance(image, dict) else image}
                for name in features:
                    if name != "image":
                        values[name] = row[label_field if name == "label" and label_field in row else name]
                yield number, values
                number += 1


def plan_idx(images: Path, labels: Path) -> SamplePlan:
    """The plan of a pair of MNIST's files: images as arrays, labels as class numbers.

    Raises:
        SourceError: damaged, or of different lengths.
    """
    pixels, classes = read_idx(str(images)), read_idx(str(labels))
    if (
        pixels.ndim not in (3, 4)
        or pixels.dtype != np.uint8
        or classes.ndim != 1
        or len(pixels) != len(classes)
    ):
        raise SourceError(f"{images}: {list(pixels.shape)} images, {labels} has {list(classes.shape)} labels")
    names = tuple(str(i) for i in range(int(classes.max()) + 1 if len(classes) else 1))
    shape = tuple(pixels.shape[1:])
    plan = SamplePlan(layout="idx", features={"image": Array(shape, "uint8"), "label": ClassLabel(names)})
    nbytes = images.stat().st_size + labels.stat().st_size
    for start in range(0, len(pixels), _IDX_ROWS):
        stop = min(start + _IDX_ROWS, len(pixels))
        item = (*source_file(images), *source_file(labels), start, stop)
        plan.add("idx", [item], nbytes * (stop - start) // len(pixels))
    return plan


def idx_rows(item: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a part of a pair of idx files."""
    images, _, _, labels, _, _, start, stop = item
    pixels, classes = read_idx(images), read_idx(labels)
    for row in range(start, stop):
        yield row, {"image": pixels[row], "label": int(classes[row])}


def read_idx(path: str) -> NDArray[Any]:
    """The array of an idx file, plain or gzip.

    Raises:
        SourceError: damaged.
    """
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        types = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
        dtype, axes = np.dtype(types[data[2]]), data[3]
        shape = np.frombuffer(data, ">u4", axes, 4).tolist()
        # frombuffer and reshape raise where the bytes are too few or too many.
        return np.frombuffer(data, dtype, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, KeyError, IndexError, ValueError) as error:
        raise SourceError(f"{path}: not an idx file, or damaged: {error}") from error
