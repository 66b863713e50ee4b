"""Files, globs, directories, URLs -> their texts, one after the other: for training a tokenizer, or for inspection."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from headrace.errors import DocumentError
from headrace.ingestion.job.commit import describe_reject
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.reader import open_reader
from headrace.ingestion.read.sources import find_sources


def read_texts(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    fields: FieldOptions = FieldOptions(),  # noqa: B008  # frozen
    strict: bool = False,
) -> Iterator[str]:
    """Texts of all sources, in order; never more than a few megabytes in memory.

    Args:
        sources: see `ingest`.
        fields: see `ingest`.
        strict: raise at the first bad document instead of leaving it out.

    Raises:
        SourceError: a source is missing, truncated, or not what its name says.
        DocumentError: strict, and a document is bad; or all documents are.
    """
    first_bad: str | None = None
    any_good = False
    patterns = [sources] if isinstance(sources, str | os.PathLike) else sources
    for source in find_sources(patterns, format=fields.format):
        reader = open_reader(source, fields)
        try:
            for parsed in reader.read():
                if parsed.rejects and first_bad is None:
                    first_bad = describe_reject(asdict(parsed.rejects[0]))
                    if strict:
                        raise DocumentError(first_bad)
                for text in parsed.texts:
                    any_good = True
                    yield text.decode()
        finally:
            reader.close()
    if first_bad is not None and not any_good:
        raise DocumentError(first_bad)
