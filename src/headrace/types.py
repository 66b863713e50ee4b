"""Frozen values that pass between rooms: documents in, batches through, predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text on its way into a store."""

    text: bytes
    """Valid UTF-8."""
    source: str
    """Path or URL of the file it came from."""
    offset: int
    """Byte offset in the decompressed source (row number for columnar sources)."""
    meta: Mapping[str, object] = field(default_factory=dict)
    """Other columns that the user asked to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a run stands in the endless stream of rows: all the state that a loader has."""

    position: int
    """Rows of the global order taken so far, all ranks and epochs; >= 0."""
    fingerprint: str
    """16 hex digits of everything that fixes the order: stores, seq_len, seed, mixture, packing, shuffle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One generated sample; (prompt_id, sample_index) is its key, stored at most once."""

    prompt_id: str
    sample_index: int
    prompt: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    """stop | length | error."""
    logprobs: tuple[float, ...] | None = None
    """Natural log, one per generated token; None when not asked for."""
    prompt_logprobs: tuple[float | None, ...] | None = None
    """Natural log, one per prompt token, the first None; None when not asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: Mapping[str, str] | None = None
    """{"type": ..., "message": ...} when finish_reason is "error"."""
