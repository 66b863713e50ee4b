"""Documents -> training or validation, by their text: equal documents are in the same store."""

from __future__ import annotations

from headrace.ingestion.operators.chance import chance


def is_validation(text: bytes, share: float, seed: int = 0) -> bool:
    """Does a document belong to the validation store? More data later moves no document across."""
    return chance(text, "validation", seed) < share
