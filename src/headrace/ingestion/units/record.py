"""The result of a unit, written when its shards are written: a unit with a record is not done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.ingestion.units.plan import unit_key
from headrace.store import ShardEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """Counts and shards of one unit."""

    track: int
    part: int
    shards: tuple[ShardEntry, ...]
    documents: int = 0
    tokens: int = 0
    given_tokens: int = 0
    """Tokens that are not learned."""
    text_bytes: int = 0
    """UTF-8 bytes of the documents in the shards."""
    validation: tuple[ShardEntry, ...] = ()
    """Shards of the validation store."""
    validation_documents: int = 0
    validation_tokens: int = 0
    validation_text_bytes: int = 0
    raw_bytes: int = 0
    """Decompressed bytes read of the sources' records."""
    stored_bytes: int = 0
    """Bytes of the source files that this unit read."""
    lines: int = 0
    removed_pieces: int = 0
    """Lines or sentences of earlier documents that were removed."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rejected documents by reason."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Documents left out on purpose, by reason: empty, or an operator's name."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Documents read that have a value, by kept field."""
    first_reject: Mapping[str, Any] | None = None
    ended: bool = True
    """Was the end of the last source reached? An open track ends here."""
    chunks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Hashes of chunks of the sources, by the source's number and the chunk's; see `content_hash`."""
    file_hash: str = ""
    """XXH3-128 of the unit's rejects file; in the first pass of deduplication, of its sketches; "" without a file."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds by stage."""

    @property
    def key(self) -> str:
        """The unit's."""
        return unit_key(self.track, self.part)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        record = asdict(self)
        record["shards"] = [shard.to_json() for shard in self.shards]
        record["validation"] = [shard.to_json() for shard in self.validation]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> UnitRecord:
        """The record of plain values."""
        shards = {
            name: tuple(ShardEntry.from_json(shard) for shard in record[name])
            for name in ("shards", "validation")
        }
        return cls(**{**record, **shards})
