"""Predictions <-> Arrow rows and log payloads, with one fixed schema.

The schema never depends on the data: a job's first part without any error has the same
error column as its last (a column typed null has broken readers elsewhere, ray #60572).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa

from headrace.errors import SinkError
from headrace.types import Prediction

_LIKELY = pa.field(
    "item",
    pa.struct(
        [
            pa.field("token_id", pa.int32(), nullable=False),
            pa.field("logprob", pa.float32(), nullable=False),
        ]
    ),
    nullable=False,
)
SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("logprobs", pa.list_(pa.field("item", pa.float32(), nullable=False))),
        # The first token of a prompt has no probability: its item is null.
        pa.field("prompt_logprobs", pa.list_(pa.float32())),
        pa.field("top_logprobs", pa.list_(pa.field("item", pa.list_(_LIKELY), nullable=False))),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("error", pa.struct([pa.field("type", pa.string()), pa.field("message", pa.string())])),
    ],
    metadata={b"headrace.format": b"predictions/1"},
)

BATCH_ROWS = 1024
LOWEST_LOGPROB = -9999.0  # stored in place of minus infinity, which JSON does not have


def to_payload(row: Prediction) -> bytes:
    """One prediction as a JSON object, the payload of a log frame and a line of a .jsonl part."""
    written = orjson.dumps(
        {
            "prompt_id": row.prompt_id,
            "sample_index": row.sample_index,
            "prompt": row.prompt,
            "text": row.text,
            "token_ids": row.token_ids,
            "finish_reason": row.finish_reason,
            "logprobs": _finite(row.logprobs),
            "prompt_logprobs": _finite(row.prompt_logprobs),
            "top_logprobs": _likeliest(row.top_logprobs),
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "error": None if row.error is None else dict(row.error),
        }
    )
    # orjson leaves its buffer behind the bytes, 3 to 4 KB a row: a part of short rows held 14 MB of nothing.
    return bytes(memoryview(written))


def to_batches(payloads: Sequence[bytes]) -> Iterator[pa.RecordBatch]:
    """Payloads as Arrow batches, in their order; a row of Python objects takes five times its payload."""
    for start in range(0, len(payloads), BATCH_ROWS):
        rows: list[dict[str, Any]] = [
            orjson.loads(payload) for payload in payloads[start : start + BATCH_ROWS]
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def key_of(payload: bytes) -> tuple[str, int, bool]:
    """Prompt id, sample index, and whether the row is an error."""
    row = orjson.loads(payload)
    return row["prompt_id"], row["sample_index"], row["error"] is not None


def _finite(logprobs: tuple[float | None, ...] | None) -> list[float | None] | None:
    if logprobs is None:
        return None
    if any(value is not None and math.isnan(value) for value in logprobs):
        raise SinkError(
            "a log-probability is NaN: the model's logits overflowed; such a row must be an error row."
        )
    return [None if value is None else max(value, LOWEST_LOGPROB) for value in logprobs]


def _likeliest(
    tops: tuple[tuple[tuple[int, float], ...], ...] | None,
) -> list[list[dict[str, int | float]]] | None:
    if tops is None:
        return None
    return [
        [{"token_id": token, "logprob": max(value, LOWEST_LOGPROB)} for token, value in top] for top in tops
    ]
