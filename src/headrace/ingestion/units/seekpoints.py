"""One large .gz -> positions from which it can be decompressed, found by all cores in parallel.

Without them each worker decompresses everything before its unit, at about 0.9 GB/s, so no job on one .gz could be
faster than that, however many workers it has. With few workers that is no limit, and finding the positions would
cost more than it saves.
"""

from __future__ import annotations

import io
import os

from headrace.ingestion.options import ContentOptions
from headrace.ingestion.parse.reader import is_cut_by_line
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.journal import seek_path
from headrace.ingestion.units.sealed import damaged, hash_of
from headrace.platform import available_cores
from headrace.storage import Blob

MIN_WORKERS = 6
MIN_UNITS = 2
MAX_BYTES = 4 << 30
"""Stored bytes; the seek points of 1 GiB of text take about 7 MB, in each worker."""
MAX_THREADS = 8
_READ_BYTES = 4 << 20


def may_have(source: SourceFile, options: ContentOptions) -> bool:
    """Are seek points computed for this source?"""
    large = options.shard_text_bytes * MIN_UNITS < 4 * source.nbytes and source.nbytes <= MAX_BYTES
    is_gzip = source.compression == "gzip" and "://" not in source.url
    return is_gzip and large and is_cut_by_line(source, options.fields)


def find(source: SourceFile, blob: Blob) -> bool:
    """Write a file's seek points into the journal, unless they are there.

    Returns:
        False for a file that the library cannot read. The reader that reads it next reports what is wrong with
        it, if anything (zeros after its end are not).
    """
    import rapidgzip

    path = seek_path(source.fingerprint)
    if path in blob.list(os.path.dirname(path) + "/"):  # noqa: PTH120 - a blob's name
        return True
    index = io.BytesIO()
    threads = min(available_cores(), MAX_THREADS)
    try:
        with rapidgzip.open(source.url, parallelization=threads) as file:
            while file.read(_READ_BYTES):  # checks every member's checksum
                pass
            file.export_index(index)
    except (ValueError, RuntimeError, OSError):
        return False
    points = index.getvalue()
    blob.put(path, [hash_of(points).encode(), points])
    return True


def load(source: SourceFile, options: ContentOptions, blob: Blob) -> bytes | None:
    """A file's seek points; None where there are none.

    Raises:
        ResumeError: they are damaged.
    """
    if not may_have(source, options):
        return None
    try:
        data = bytes(blob.get(seek_path(source.fingerprint)))
    except FileNotFoundError:
        return None
    if data[:32] != hash_of(data[32:]).encode():
        raise damaged(blob, seek_path(source.fingerprint), "its hash does not match its content")
    return data[32:]
