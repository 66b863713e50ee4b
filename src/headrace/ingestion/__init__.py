"""Raw files -> shards, as a restartable job.

run          `ingest`, as it is called          conduct   all of a job, one after the other
read/        files, globs, URLs -> blocks of whole records: sources, open, remote, cuts, records
parse/       blocks and tables -> texts, and what is wrong with the others; reader knows the formats
units/       sources -> units of work: plan, schedule, record, journal, seekpoints of a large .gz
work/        a unit -> its shards: intake, tokenizing, pack, outlet; sketching for dedup; prove: is the engine exact?
job/         what was asked for, who may do it, and what it came to: job, lock, dedup, finish, summary, meter
crew/        units by workers of any kind: nursery loads once and forks, pool, cluster (Ray), engines
operators/   what people want done to texts before they are tokenized
options, fields, document   values that pass between them          texts   sources -> texts, without a store

`ingest` starts its workers before it loads what it needs itself: so nothing heavy is loaded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.ingestion.run import ingest

if TYPE_CHECKING:
    from headrace.ingestion.job.summary import IngestSummary
    from headrace.ingestion.texts import read_texts

__all__ = ["IngestSummary", "ingest", "read_texts"]


def __getattr__(name: str) -> Any:
    if name == "read_texts":
        from headrace.ingestion.texts import read_texts

        return read_texts
    if name == "IngestSummary":
        from headrace.ingestion.job.summary import IngestSummary

        return IngestSummary
    raise AttributeError(f"module 'headrace.ingestion' has no attribute {name!r}")
