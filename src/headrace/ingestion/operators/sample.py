"""Documents -> a share of them, chosen by their text: the same ones on every run, in every order."""

from __future__ import annotations

from headrace.ingestion.operators.chance import chance


def is_sampled(text: bytes, share: float, seed: int = 0) -> bool:
    """Does a document belong to the sample? One of a smaller share belongs to every larger one."""
    return chance(text, "sample", seed) < share
