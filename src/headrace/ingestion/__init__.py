"""Raw files -> shards, as a job that can be interrupted and continued.

run          the function `ingest`             pipeline   IngestRunner: begin, continue, append, commit
options      what users can set                texts      sources -> texts, without a store
store_writer documents of any iterator -> a store
read/        files, globs, URLs -> blocks of whole records
parse/       blocks and tables -> texts, and what is wrong with the others; reader chooses the format
operators/   what is done to texts before they are tokenized, when asked for
units/       sources -> units of work: plan, schedule, records and journal of what is done
build/       one unit -> its shards: read documents, check the tokenizer, tokenize, pack, write
job/         a job's description, destination and lock, deduplication, commit, progress, summary
samples/     images with labels, boxes or masks -> a store of samples
interactions/  logs of users' interactions with items -> a store of samples, or of item tokens
distribute   units on workers: this process, worker processes, Ray; fork_server starts the processes

`ingest` starts its workers before it imports what it needs itself: so nothing heavy is imported here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.ingestion.interactions import Interactions
from headrace.ingestion.options import (
    Codec,
    Dedup,
    Distribute,
    FieldOptions,
    FilterOptions,
    JobOptions,
    OperatorOptions,
    TextMode,
)
from headrace.ingestion.read.sources import SourceFile, find_sources
from headrace.ingestion.run import ingest
from headrace.ingestion.samples import SampleLayout, Samples

if TYPE_CHECKING:
    from headrace.ingestion.job.job import verify_job_files
    from headrace.ingestion.job.summary import IngestSummary
    from headrace.ingestion.store_writer import StoreWriter
    from headrace.ingestion.texts import read_texts

__all__ = [
    "Codec",
    "Dedup",
    "Distribute",
    "FieldOptions",
    "FilterOptions",
    "IngestSummary",
    "Interactions",
    "JobOptions",
    "OperatorOptions",
    "SampleLayout",
    "Samples",
    "SourceFile",
    "StoreWriter",
    "TextMode",
    "find_sources",
    "ingest",
    "read_texts",
    "verify_job_files",
]

_MODULE_OF = {
    "StoreWriter": "headrace.ingestion.store_writer",
    "read_texts": "headrace.ingestion.texts",
    "IngestSummary": "headrace.ingestion.job.summary",
    "verify_job_files": "headrace.ingestion.job.job",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'headrace.ingestion' has no attribute {name!r}")
