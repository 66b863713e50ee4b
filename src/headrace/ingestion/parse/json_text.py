"""One JSON record -> its text, or what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from headrace.ingestion.fields import lookup, too_long, too_long_record, utf8_fault
from headrace.ingestion.options import FieldOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a record has no text for us."""

    at: int
    """Byte of the fault in the record."""
    reason: str
    detail: str


def text_of_json(raw: bytes, fields: FieldOptions) -> tuple[Any, bytes] | Fault:
    """The record and its text in UTF-8, or the fault.

    Args:
        raw: one JSON value.
        fields: which field holds the text, and how long it may be.
    """
    if len(raw) > fields.max_record_bytes:
        return Fault(at=0, reason="too_long", detail=too_long_record(fields))
    fault = utf8_fault(raw)
    if fault is not None:
        return Fault(
            at=fault,
            reason="invalid_utf8",
            detail=f"invalid UTF-8: byte 0x{raw[fault]:02x} does not belong here",
        )
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        at = len(raw.decode()[: error.pos].encode())
        return Fault(at=at, reason="broken_json", detail=f"broken JSON: {error.msg}; got {_excerpt(raw, at)}")
    value = lookup(record, fields.text_field)
    if not isinstance(value, str):
        return Fault(at=0, reason="no_text", detail=_no_text(record, value, fields.text_field))
    text = value.encode()
    if len(text) > fields.max_document_bytes:
        return Fault(at=0, reason="too_long", detail=too_long(len(text), fields))
    return record, text


def _excerpt(raw: bytes, at: int) -> str:
    return repr(raw[max(at - 20, 0) : at + 20].decode("utf-8", errors="replace"))


def _no_text(record: Any, value: Any, name: str) -> str:
    if not isinstance(record, dict):
        return f"no text field {name!r}: the record is no object but {_kind(record)}"
    if value is not None:
        return f"the text field {name!r} is no string but {_kind(value)}"
    names = ", ".join(sorted(map(str, record))[:12]) or "none"
    return (
        f"no text field {name!r}; the fields are: {names}. Name the right one with text_field (--text-field)"
    )


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
