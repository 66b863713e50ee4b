"""A row of the input -> the fields of one prompt, as readers give it and jobs take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt: text, token ids, or messages, or why it is none of them."""

    prompt_id: str
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[Any, ...] | None = None
    """A conversation, for the model's chat template."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `SamplingOptions` that this prompt sets for itself."""
    num_samples: int | None = None
    model: str | None = None
    """The name of the model that the row asks for; another one makes it an error row."""
    error: Mapping[str, str] | None = None
