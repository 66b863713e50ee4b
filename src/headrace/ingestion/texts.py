"""Files, globs, directories, URLs -> their texts, one after the other: for training a tokenizer, or a look."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from headrace.errors import DocumentError
from headrace.ingestion.fields import Fields, TextMode
from headrace.ingestion.job.commit import describe_reject
from headrace.ingestion.parse.reader import open_reader
from headrace.ingestion.read.sources import find_sources


def read_texts(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    text_field: str = "text",
    text_mode: TextMode = "auto",
    strict: bool = False,
    max_document_bytes: int = 16 << 20,
) -> Iterator[str]:
    """Texts of all sources, in order; never more than a few megabytes in memory.

    Args:
        sources: see `ingest`.
        text_field: see `ingest`.
        text_mode: see `ingest`.
        strict: raise at the first bad document instead of passing it over.
        max_document_bytes: longer documents are bad.

    Raises:
        SourceError: a source is missing, truncated, or not what its name says.
        DocumentError: strict, and a document is bad; or all documents are.
    """
    fields = Fields(text=text_field, max_bytes=max_document_bytes)
    first_bad: str | None = None
    any_good = False
    wanted = [sources] if isinstance(sources, str | os.PathLike) else sources
    for source in find_sources(wanted):
        reader = open_reader(source, fields, text_mode)
        try:
            for parsed in reader.read():
                if parsed.rejects and first_bad is None:
                    reject = parsed.rejects[0]
                    first_bad = describe_reject(
                        {
                            "source": reject.source,
                            "line": reject.line,
                            "offset": reject.offset,
                            "detail": reject.detail,
                        }
                    )
                    if strict:
                        raise DocumentError(first_bad)
                for text in parsed.texts:
                    any_good = True
                    yield text.decode()
        finally:
            reader.close()
    if first_bad is not None and not any_good:
        raise DocumentError(first_bad)
