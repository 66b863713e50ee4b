"""Payloads of finished rows -> one file's bytes with what its commit says about it; and back, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import google_crc32c
import pyarrow as pa

from headrace.errors import ConfigError, SinkError
from headrace.sink import jsonl, parquet
from headrace.sink.schema import to_batch

FORMATS = {"parquet": parquet, "jsonl": jsonl}
SUFFIXES = {module.SUFFIX: module for module in FORMATS.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPart:
    """A file that is about to be written."""

    data: memoryview
    rows: int
    errors: int
    tokens: int
    """Generated tokens in it."""
    crc32c: int
    """Of the file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file that a commit names."""

    name: str
    rows: int
    nbytes: int
    crc32c: int
    read: Callable[[], bytes] = field(repr=False)
    """Its bytes. Raises: FileNotFoundError."""
    superseded: frozenset[tuple[str, int]] = frozenset()
    """Keys of error rows in it that a later part replaces."""


def check_limits(form: str, *, part_rows: int, part_bytes: int) -> None:
    """Refuse options that make no part.

    Raises:
        ConfigError: no such format, or a limit below 1.
    """
    if form not in FORMATS:
        raise ConfigError(f"sink: no format named {form!r}; there are {', '.join(FORMATS)}.")
    if part_rows < 1 or part_bytes < 1:
        raise ConfigError(f"sink: part_rows {part_rows} and part_bytes {part_bytes} must be at least 1.")


def encode_part(payloads: Iterable[bytes], *, form: str) -> NewPart:
    """Build a part in memory: it is bounded, and so it is written whole or not at all."""
    batch = to_batch(payloads)
    data = memoryview(FORMATS[form].encode(batch))
    return NewPart(
        data=data,
        rows=batch.num_rows,
        errors=batch.num_rows - batch.column("error").null_count,
        tokens=sum(batch.column("completion_tokens").to_pylist()),
        crc32c=google_crc32c.value(bytes(data)),
    )


def decode_part(part: Part, *, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The part's rows, without those that were replaced.

    Args:
        part: named by a commit.
        columns: to read; the key's columns among them.

    Raises:
        SinkError: missing, or not the bytes that were committed.
    """
    suffix = next(suffix for suffix in SUFFIXES if part.name.endswith(suffix))
    for batch in SUFFIXES[suffix].decode(_verified(part), columns=columns):
        if not part.superseded:
            yield batch
            continue
        keys = zip(
            batch.column("prompt_id").to_pylist(), batch.column("sample_index").to_pylist(), strict=True
        )
        yield batch.filter(pa.array([key not in part.superseded for key in keys]))


def _verified(part: Part) -> bytes:
    try:
        data = part.read()
    except FileNotFoundError as error:
        raise SinkError(
            f"{part.name}: a committed part is missing; its {part.rows} rows are lost."
        ) from error
    got = google_crc32c.value(data)
    if len(data) != part.nbytes or got != part.crc32c:
        raise SinkError(
            f"{part.name}: {len(data)} bytes with crc32c 0x{got:08x}, "
            f"committed were {part.nbytes} bytes with 0x{part.crc32c:08x}. Restore the file from a copy."
        )
    return data
