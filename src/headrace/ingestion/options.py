"""What decides about the bytes of a store, besides sources and tokenizer: compared when a job goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from headrace.errors import ConfigError
from headrace.ingestion.fields import Fields, TextMode
from headrace.ingestion.operators.filters import Filters
from headrace.ingestion.operators.minhash import MinHash

SHARD_TEXT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Same options, sources and tokenizer: same bytes, whatever the workers or interruptions."""

    fields: Fields = field(default_factory=Fields)
    text_mode: TextMode = "auto"
    codec: str = "zstd"
    block_tokens: int = 131_072
    shard_text_bytes: int = SHARD_TEXT_BYTES
    """Text in a shard, and in a unit of work."""
    normalise: bool = False
    filters: Filters | None = None
    sample: float = 1.0
    """Share of the documents that is taken."""
    dedup: Literal["exact"] | MinHash | None = None
    validation_share: float = 0.0
    """Share of the documents that goes to the validation store."""
    seed: int = 0
    """Of the sample and the split."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: says which option, what it was and what is wanted.
        """
        if self.codec not in ("none", "lz4", "zstd"):
            raise ConfigError(f"codec is {self.codec!r}; wanted none, lz4 or zstd")
        if self.text_mode not in ("auto", "file", "line", "block"):
            raise ConfigError(f"text_mode is {self.text_mode!r}; wanted auto, file, line or block")
        if self.shard_text_bytes < 1:
            raise ConfigError(f"shard_text_bytes is {self.shard_text_bytes}; wanted 1 or more")
        if self.fields.max_bytes < 1:
            raise ConfigError(f"max_document_bytes is {self.fields.max_bytes}; wanted 1 or more")
        if not 0 < self.sample <= 1:
            raise ConfigError(f"sample is {self.sample}; wanted a share above 0, up to 1")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"validation_share is {self.validation_share}; wanted a share from 0 to below 1"
            )

    @property
    def prepares(self) -> bool:
        """Is a text changed or left out by itself, before it is tokenized?"""
        return self.normalise or self.filters is not None or self.sample < 1

    def to_json(self) -> dict[str, Any]:
        """As plain values, to be written down and compared."""
        return asdict(self)
