"""Counts and times of an ingest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.ingestion.job.job import IngestJob
from headrace.ingestion.units.record import UnitRecord
from headrace.native import Target, native_target


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
    validation_documents: int = 0
    """Documents in the validation store from this job."""
    validation_tokens: int = 0
    given_tokens: int = 0
    """Tokens that are not learned: a loader's labels are -100 for them."""
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
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that ran, or "off": Python did the same work."""
    notes: tuple[str, ...] = ()
    """Decisions and events that the user should know of."""

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
        """As plain values, with the derived figures."""
        return {
            **asdict(self),
            "bytes_per_token": self.bytes_per_token,
            "bytes_per_s": self.bytes_per_s,
            "limiting_stage": self.limiting_stage,
        }


def total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Sum of counts by name."""
    summed: Counter[str] = Counter()
    for one in counts:
        summed.update(one)
    return summed


def summary_of_job(
    job: IngestJob,
    out: str,
    records: Sequence[UnitRecord],
    *,
    snapshot: int,
    computed_by: str,
    resumed: int,
    workers: int,
    wall_s: float,
    notes: Sequence[str],
) -> IngestSummary:
    """The summary of a job that has just been done."""
    entries = [shard for record in records for shard in record.shards]
    stages: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return IngestSummary(
        out=out,
        snapshot=snapshot,
        documents=sum(record.documents for record in records),
        tokens=sum(record.tokens for record in records),
        bytes_in=sum(record.text_bytes for record in records),
        source_bytes=sum(source.nbytes for source in job.sources),
        store_bytes=sum(entry.nbytes for entry in entries),
        num_sources=len(job.sources),
        num_shards=len(entries),
        validation_documents=sum(record.validation_documents for record in records),
        validation_tokens=sum(record.validation_tokens for record in records),
        given_tokens=sum(record.given_tokens for record in records),
        rejects=dict(total(record.rejected for record in records)),
        dropped=dict(total(record.dropped for record in records)),
        tokenizer=job.tokenizer.name,
        tokenizer_engine=computed_by,
        workers=workers,
        wall_s=wall_s,
        stages=stages,
        units=len(records),
        units_resumed=resumed,
        notes=tuple(notes),
    )


def summary_of_store(
    job: IngestJob,
    out: str,
    past: Sequence[Mapping[str, Any]],
    *,
    snapshot: int,
    wall_s: float,
    notes: Sequence[str],
) -> IngestSummary:
    """The counts of the jobs that made a store that was there already."""
    return IngestSummary(
        out=out,
        snapshot=snapshot,
        documents=sum(one["documents"] for one in past),
        tokens=sum(one["tokens"] for one in past),
        bytes_in=sum(one["text_bytes"] for one in past),
        source_bytes=sum(one["source_bytes"] for one in past),
        store_bytes=sum(one["shard_bytes"] for one in past),
        num_sources=sum(one["sources"] for one in past),
        num_shards=sum(one["shards"] for one in past),
        given_tokens=sum(one.get("given_tokens", 0) for one in past),
        rejects=dict(total(one["rejected"] for one in past)),
        dropped=dict(total(one["dropped"] for one in past)),
        tokenizer=job.tokenizer.name,
        workers=0,
        wall_s=wall_s,
        notes=tuple(notes),
    )
