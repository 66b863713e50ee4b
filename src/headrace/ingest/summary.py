"""What an ingest came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """Counts of the whole job, and where its time went."""

    out: str
    """The store."""
    snapshot: int
    """The store's version that this job made."""
    documents: int
    """Documents in the store from this job."""
    tokens: int
    """Tokens in the store from this job, ends of documents included."""
    bytes_in: int
    """UTF-8 bytes of those documents."""
    source_bytes: int
    """Bytes of the source files as stored."""
    store_bytes: int
    """Bytes of the shards written."""
    num_sources: int
    num_shards: int
    rejects: Mapping[str, int] = field(default_factory=dict)
    """Bad documents by reason; listed in rejects.jsonl."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Documents left out on purpose, by reason: empty, or an operator's name."""
    tokenizer: str = ""
    tokenizer_engine: str = ""
    """The library that computed the ids; "" where nothing was left to compute."""
    workers: int = 1
    wall_s: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds of read (and decompress), parse, tokenize, pack, write (and compress), all workers together."""
    units: int = 0
    units_resumed: int = 0
    """Units that an earlier run of the same command had done."""
    notes: tuple[str, ...] = ()
    """What a person should know."""

    @property
    def bytes_per_token(self) -> float:
        """Text bytes a token, ends of documents not counted."""
        return self.bytes_in / max(self.tokens - self.documents, 1)

    @property
    def bytes_per_s(self) -> float:
        """Text bytes a second, all stages and the start included."""
        return self.bytes_in / self.wall_s if self.wall_s else 0.0

    @property
    def limiting_stage(self) -> str:
        """The stage that took the largest share of the workers' busy time; "" when nothing was done."""
        return max(self.stages, key=lambda name: self.stages[name], default="")

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the figures that follow from them."""
        return {
            **asdict(self),
            "bytes_per_token": self.bytes_per_token,
            "bytes_per_s": self.bytes_per_s,
            "limiting_stage": self.limiting_stage,
        }
