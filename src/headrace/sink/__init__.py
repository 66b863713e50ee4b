"""Predictions -> committed files: each key is stored once, also when the process is killed at any moment.

schema     predictions <-> Arrow rows, one fixed schema
request    a job's request -> its run id
log        finished rows -> frames that survive a kill
part       rows <-> one file's bytes, Parquet or JSON lines
commit     a local directory: one SQLite transaction is the commit
database   the SQLite database, for the writer and for readers
lost       parts that the database should name and does not
rebuild    parts -> a new database
remote     an object store: one create-if-absent object is the commit
read       committed rows -> Arrow
"""

import os
from collections.abc import Mapping
from typing import Any, Literal

from headrace.errors import ConfigError
from headrace.sink.commit import Sink
from headrace.sink.part import Part, decode_part
from headrace.sink.read import committed_parts, count_predictions, read_predictions, scan_predictions
from headrace.sink.rebuild import rebuild_commits
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
    "rebuild_commits",
    "run_id",
    "scan_predictions",
]


def open_sink(
    out: str | os.PathLike[str],
    *,
    request: Mapping[str, Any],
    format: Literal["parquet", "jsonl"] = "parquet",
    retry_errors: bool = False,
    rebuild: bool = False,
) -> Sink | RemoteSink:
    """Open the sink for a local directory or a URL; see `Sink` and `RemoteSink`.

    Args:
        out: the directory or URL.
        request: everything that determines the output.
        format: of the parts.
        retry_errors: error rows count as missing.
        rebuild: rebuild the commit database from the parts first, see `rebuild_commits`.
    """
    if rebuild:
        if is_url(out):
            raise ConfigError(
                f"{os.fspath(out)}: commits of an object store are objects, so there is no database to rebuild. "
                f"Leave rebuild_commits out."
            )
        rebuild_commits(out)
    if is_url(out):
        return RemoteSink(os.fspath(out), request=request, format=format, retry_errors=retry_errors)
    return Sink(out, request=request, format=format, retry_errors=retry_errors)
