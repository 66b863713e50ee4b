"""Documents -> corpus/part-*.jsonl.gz and corpus/held-out.jsonl.gz, the same bytes every time.

One document in fifty is held out of training; the evaluation loss and the prompts come from these.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import orjson

from headrace.demo.standard_library import python_documents, python_files, standard_library
from headrace.errors import SourceError
from headrace.formatting import nbytes
from headrace.ingestion import FieldOptions, SourceFile, read_texts
from headrace.types import Document

Progress = Callable[[int, int | None, str], None]

PART_BYTES = 4 << 20
"""Text of one part file: small enough that every core gets a part to ingest."""
MAX_BYTES = 64 << 20
"""Text that a demo reads at most: more than it can train on in its few minutes."""
HELD_OUT = "held-out.jsonl.gz"
_ONE_IN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The text that the demo trains on."""

    name: str
    """A description of the text."""
    documents: int
    text_bytes: int
    parts: int
    held_out_documents: int
    held_out_bytes: int
    capped: bool
    """Whether there was more text than MAX_BYTES, which was left out."""

    def sentence(self) -> str:
        """The corpus in one line."""
        documents = "1 document" if self.documents == 1 else f"{self.documents:,} documents"
        text = f"{self.name}: {nbytes(self.text_bytes)} of text in {documents}"
        return f"{text} (the first {MAX_BYTES >> 20} MiB of more)" if self.capped else text


def write_corpus(
    sources: Sequence[SourceFile], folder: Path, *, text_field: str = "text", progress: Progress | None = None
) -> Corpus:
    """Write a corpus of the user's files, or of the running Python's own sources.

    Args:
        sources: files to read; empty for the standard library.
        folder: the directory to write; an existing one is replaced.
        text_field: column or key that holds the text, where documents have fields.
        progress: called with (bytes of text so far, total or None, note).

    Raises:
        SourceError: no text, or a file that is truncated or of another format than its name says.
        DocumentError: a document that is not UTF-8, not JSON, or has no text.
    """
    total = None
    if sources:
        documents, name = _file_documents(sources, text_field), _name(sources)
    else:
        documents, name = python_documents(), "the Python standard library with its documentation topics"
        total = sum(path.stat().st_size for path in python_files(standard_library()))
    staging = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with _PartWriter(staging) as train, _TextWriter(staging / HELD_OUT) as held_out:
        capped = _split(documents, train, held_out, total=total, progress=progress)
    if not train.documents:
        raise SourceError(f"{name}: no text in it; a demo needs at least a few kilobytes.")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return Corpus(
        name=name,
        documents=train.documents,
        text_bytes=train.text_bytes,
        parts=train.parts,
        held_out_documents=held_out.documents,
        held_out_bytes=held_out.text_bytes,
        capped=capped,
    )


def training_parts(folder: Path) -> list[Path]:
    """The files to train on, in order."""
    return sorted(folder.glob("part-*.jsonl.gz"))


def read_corpus_file(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (source, text) of every document of a file that `write_corpus` wrote."""
    with gzip.open(path, "rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            yield row["source"], row["text"]


def _split(
    documents: Iterable[Document],
    train: _PartWriter,
    held_out: _TextWriter,
    *,
    total: int | None,
    progress: Progress | None,
) -> bool:
    """Write each document to one of the two sides; return True when some were left out for size."""
    last: Document | None = None
    done = 0
    for number, document in enumerate(documents, start=1):
        if done + len(document.text) > MAX_BYTES and done:
            capped = True
            break
        done += len(document.text)
        if progress is not None:
            progress(min(done, total or done), total, document.source)
        if number % _ONE_IN == 0:
            held_out.write(document)
            continue
        if last is not None:
            train.write(last)
        last = document
    else:
        capped = False
    if last is not None and not held_out.documents:
        # Fewer than fifty documents: hold out the end of the last one instead.
        head, tail = _cut(last, len(last.text) - max(len(last.text) // 10, min(len(last.text) // 2, 4096)))
        held_out.write(tail)
        last = head
    if last is not None:
        train.write(last)
    return capped


def _cut(document: Document, at: int) -> tuple[Document, Document]:
    """Cut a document in two, at the last line end before `at` if there is one, and never inside a character."""
    text = document.text
    newline = text.rfind(b"\n", 1, at)
    at = newline + 1 if newline > 0 else at
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return (
        Document(text=text[:at], source=document.source, offset=document.offset),
        Document(text=text[at:], source=f"{document.source} (end)", offset=document.offset + at),
    )


def _file_documents(sources: Sequence[SourceFile], text_field: str) -> Iterator[Document]:
    for source in sources:
        for number, text in enumerate(
            read_texts(source.url, fields=FieldOptions(text_field=text_field), strict=True), start=1
        ):
            name = f"{Path(source.url).name} {number}"
            yield Document(text=text.encode("utf-8"), source=name, offset=number)


def _name(sources: Sequence[SourceFile]) -> str:
    names = [Path(source.url).name for source in sources]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more files"


class _TextWriter:
    """Writes one .jsonl.gz file whose bytes depend on the documents alone."""

    def __init__(self, path: Path) -> None:
        self.documents = 0
        self.text_bytes = 0
        self._raw: IO[bytes] = path.open("wb")
        # No name and no time in the header: the same documents make the same file.
        self._gzip = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, compresslevel=6, mtime=0)

    def write(self, document: Document) -> None:
        row = {"text": document.text.decode("utf-8"), "source": document.source}
        self._gzip.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self.documents += 1
        self.text_bytes += len(document.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._gzip.close()
        self._raw.close()


class _PartWriter:
    """Writes part-0000.jsonl.gz and so on; a new file begins when one has PART_BYTES."""

    def __init__(self, folder: Path) -> None:
        self.documents = 0
        self.text_bytes = 0
        self.parts = 0
        self._folder = folder
        self._file: _TextWriter | None = None

    def write(self, document: Document) -> None:
        if self._file is None or self._file.text_bytes >= PART_BYTES:
            self._close()
            self._file = _TextWriter(self._folder / f"part-{self.parts:04d}.jsonl.gz")
            self.parts += 1
        self._file.write(document)
        self.documents += 1
        self.text_bytes += len(document.text)

    def _close(self) -> None:
        if self._file is not None:
            self._file.__exit__()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
