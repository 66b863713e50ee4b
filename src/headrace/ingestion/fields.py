"""A record's fields -> metadata, and the faults that all formats report alike."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import orjson

from headrace.errors import SourceError
from headrace.ingestion.options import FieldOptions


def as_metadata(value: Any) -> str | None:
    """A kept value as a string: one type for a column, whatever the sources hold."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode() if utf8_fault(value) is None else f"base64:{base64.b64encode(value).decode()}"
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # NaN, Infinity: as Python and JavaScript write them
    return _as_json(value)


def _as_json(value: Any) -> str:
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        if "null" not in text:
            return text
    except (orjson.JSONEncodeError, RecursionError):
        pass
    # orjson writes a NaN as null, stops 254 levels deep, and knows integers of 64 bits.
    try:
        return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        return str(value)


def lookup(record: Any, name: str) -> Any:
    """A field by name; a dotted name looks inside objects and, by numbers from 0 on, lists. None where there is none.

    >>> lookup({"a": {"b": ["x", "y"]}}, "a.b.1")
    'y'
    """
    if isinstance(record, dict) and name in record:
        return record[name]
    for part in name.split("."):
        if isinstance(record, dict):
            record = record.get(part)
        elif isinstance(record, list) and part.isdecimal():
            record = record[int(part)] if int(part) < len(record) else None
        else:
            return None
    return record


def utf8_fault(text: bytes) -> int | None:
    """Byte of the first fault in what should be UTF-8; None when there is none."""
    if text.isascii():
        return None
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def too_long(nbytes: int, fields: FieldOptions) -> str:
    """The detail of a reject for length."""
    return f"document of {nbytes:,} bytes; the limit is {fields.max_document_bytes:,} (max_document_bytes)"


def too_long_record(fields: FieldOptions) -> str:
    """The detail of a reject for a record's length; the same whether it was held or passed over."""
    return (
        f"record of more than {fields.max_record_bytes:,} bytes; no more is read of one "
        f"(twice max_document_bytes, {fields.max_document_bytes:,})"
    )


def endless_record(url: str, offset: int, limit: int) -> SourceError:
    """The error for a format in which nothing after a record without an end can be trusted."""
    return SourceError(
        f"{url}: the record that starts at byte {offset} has no end within the file or {limit:,} bytes. "
        f"Is a quote or a bracket left open?"
    )
