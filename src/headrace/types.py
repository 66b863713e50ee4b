"""Frozen values that several folders exchange: documents and predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping


Bytes: TypeAlias = bytes | bytearray | memoryview
"""Anything that holds bytes and can be sliced without being read."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The name of an option on the command line, where it is not its field's name with dashes."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text that is written to a store."""

    text: bytes
    """Valid UTF-8."""
    source: str
    """Path or URL of the file it came from."""
    offset: int
    """Byte offset in the decompressed source (row number for columnar sources)."""
    meta: Mapping[str, object] = field(default_factory=dict)
    """Other columns that the user asked to keep."""


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
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """For each generated token the likeliest ids and their natural log, likeliest first; None when not asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: Mapping[str, str] | None = None
    """{"type": ..., "message": ...} when finish_reason is "error"."""
