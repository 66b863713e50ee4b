"""Payloads of finished rows -> one file's bytes with what its commit says about it; and back, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import google_crc32c
import pyarrow as pa

from headrace.errors import ConfigError, SinkError
from headrace.sink import jsonl, parquet
from headrace.sink.schema import BATCH_ROWS, to_batches
from headrace.storage import validate_arrow

FORMATS = {"parquet": parquet, "jsonl": jsonl}
CRC_BYTES = 1 << 18
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
    first_id: str = ""
    """No row of it has a smaller prompt id."""
    read: Callable[[], bytes | pa.Buffer] = field(repr=False)
    """Its bytes, mapped where that is possible. Raises: FileNotFoundError."""
    superseded: frozenset[tuple[str, int]] = frozenset()
    """Keys of error rows in it that a later part replaces."""


def check_limits(format: str, *, part_rows: int, part_bytes: int) -> None:
    """Refuse options that make no part.

    Raises:
        ConfigError: no such format, or a limit below 1.
    """
    if format not in FORMATS:
        raise ConfigError(f"sink: no format named {format!r}; there are {', '.join(FORMATS)}.")
    if part_rows < 1 or part_bytes < 1:
        raise ConfigError(f"sink: part_rows {part_rows} and part_bytes {part_bytes} must be at least 1.")


def encode_part(payloads: Sequence[bytes], *, format: str) -> NewPart:
    """Build a part in memory: it is bounded, and so it is written whole or not at all.

    Args:
        payloads: in the order of their keys.
        format: a name out of FORMATS.
    """
    errors = tokens = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal errors, tokens
        for batch in to_batches(payloads):
            errors += batch.num_rows - batch.column("error").null_count
            tokens += sum(batch.column("completion_tokens").to_pylist())
            yield batch

    data = memoryview(FORMATS[format].encode(counted()))
    return NewPart(data=data, rows=len(payloads), errors=errors, tokens=tokens, crc32c=_crc32c(data))


def decode_part(part: Part, *, columns: list[str], batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The part's rows, without those that were replaced.

    Args:
        part: named by a commit.
        columns: to read; the key's columns among them.
        batch_rows: at most, of a batch.

    Raises:
        SinkError: missing, or not the bytes that were committed.
    """
    suffix = next(suffix for suffix in SUFFIXES if part.name.endswith(suffix))
    for batch in SUFFIXES[suffix].decode(_verified(part), columns=columns, rows=batch_rows):
        validate_arrow(batch, where=part.name, error=SinkError)
        if not part.superseded:
            yield batch
            continue
        keys = zip(
            batch.column("prompt_id").to_pylist(), batch.column("sample_index").to_pylist(), strict=True
        )
        yield batch.filter(pa.array([key not in part.superseded for key in keys]))


def _verified(part: Part) -> bytes | pa.Buffer:
    try:
        data = part.read()
    except FileNotFoundError as error:
        raise SinkError(
            f"{part.name}: a committed part is missing; its {part.rows} rows are lost."
        ) from error
    got = _crc32c(memoryview(data))
    if len(data) != part.nbytes or got != part.crc32c:
        raise SinkError(
            f"{part.name}: {len(data)} bytes with crc32c 0x{got:08x}, "
            f"committed were {part.nbytes} bytes with 0x{part.crc32c:08x}. Restore the file from a copy."
        )
    return data


def _crc32c(data: memoryview) -> int:
    """Of a buffer, which is copied a piece at a time: the library takes bytes only."""
    crc = 0
    for start in range(0, len(data), CRC_BYTES):
        crc = google_crc32c.extend(crc, bytes(data[start : start + CRC_BYTES]))
    return int(crc)
