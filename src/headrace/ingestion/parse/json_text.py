"""One JSON record -> its text, or what is wrong with it."""

from __future__ import annotations

from typing import Any

import orjson

from headrace.ingestion.fields import too_long_record, utf8_fault
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.records import Fault, RecordRenderer
from headrace.tokens import PartMarks


def text_of_json(
    raw: bytes, fields: FieldOptions, renderer: RecordRenderer
) -> tuple[Any, bytes, PartMarks | None] | Fault:
    """The record, its text in UTF-8 and which part of it is learned (None: all), or the fault.

    Args:
        raw: one JSON value.
        fields: how long it may be.
        renderer: which fields hold the text, or its parts.
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
    rendered = renderer.render(record)
    return rendered if isinstance(rendered, Fault) else (record, *rendered)


def _excerpt(raw: bytes, at: int) -> str:
    return repr(raw[max(at - 20, 0) : at + 20].decode("utf-8", errors="replace"))
