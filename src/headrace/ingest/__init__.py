"""Raw files -> shards, as a restartable job.

sources     what the user typed -> files             open      a file -> decompressed bytes
seekpoints  a large .gz -> where it can be entered
cuts        a buffer -> where records end            records   a range of a file -> blocks of records
parse_*     a block -> texts, and what is wrong      reader    a source and a range -> documents
plan        sources -> units of work                 schedule  which unit a free worker does next
work        a unit -> its shards and its record      pack      ids -> tokens in the stored type
nursery     loads once, forks workers                pool      workers on this machine
engines     units by workers of any kind             cluster   workers on a Ray cluster
journal     which units are done                     job       begin, go on, add, or nothing to do
prove       is the fast tokenizer engine exact?      finish    records -> the store's manifest
conduct     all of it, one after the other           run       `ingest`, as it is called

`ingest` starts its workers before it loads what it needs itself: so nothing heavy is loaded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.ingest.run import ingest

if TYPE_CHECKING:
    from headrace.ingest.summary import IngestSummary
    from headrace.ingest.texts import read_texts

__all__ = ["IngestSummary", "ingest", "read_texts"]


def __getattr__(name: str) -> Any:
    if name == "read_texts":
        from headrace.ingest.texts import read_texts

        return read_texts
    if name == "IngestSummary":
        from headrace.ingest.summary import IngestSummary

        return IngestSummary
    raise AttributeError(f"module 'headrace.ingest' has no attribute {name!r}")
