"""Predictions -> files that readers can trust: each key stored once, whatever was killed on the way.

schema     predictions <-> Arrow rows, one fixed schema
request    what was asked for -> a run's id
log        finished rows -> frames that survive a kill
part       rows -> one file's bytes, Parquet or JSON lines
commit     a local directory: one SQLite transaction is the commit
remote     an object store: one create-if-absent object is the commit
read       what is committed -> Arrow
"""

import os
from collections.abc import Mapping
from typing import Any, Literal

from headrace.sink.commit import Sink
from headrace.sink.part import Part, decode_part
from headrace.sink.read import committed_parts, count_predictions, read_predictions, scan_predictions
from headrace.sink.remote import RemoteSink, is_url
from headrace.sink.request import JOB, parse_job, run_id
from headrace.sink.schema import LOWEST_LOGPROB, SCHEMA

__all__ = [
    "JOB",
    "LOWEST_LOGPROB",
    "SCHEMA",
    "Part",
    "RemoteSink",
    "Sink",
    "committed_parts",
    "count_predictions",
    "decode_part",
    "open_sink",
    "parse_job",
    "read_predictions",
    "run_id",
    "scan_predictions",
]


def open_sink(
    out: str | os.PathLike[str],
    *,
    request: Mapping[str, Any],
    format: Literal["parquet", "jsonl"] = "parquet",
    retry_errors: bool = False,
) -> Sink | RemoteSink:
    """The sink for a local directory or a URL; see `Sink` and `RemoteSink`."""
    if is_url(out):
        return RemoteSink(os.fspath(out), request=request, format=format, retry_errors=retry_errors)
    return Sink(out, request=request, format=format, retry_errors=retry_errors)
