"""Documents from any iterator -> a store: `StoreWriter`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from headrace.errors import ConfigError, DocumentError, TokenizerError
from headrace.ingestion.build.shard_writer import ShardWriter
from headrace.ingestion.fields import as_metadata, lookup, utf8_fault
from headrace.ingestion.job.commit import commit
from headrace.ingestion.job.destination import block_tokens_for, open_destination
from headrace.ingestion.job.job import IngestJob, check_fits, past_jobs
from headrace.ingestion.options import (
    SHARD_TEXT_BYTES,
    Codec,
    ContentOptions,
    FieldOptions,
    JobOptions,
)
from headrace.ingestion.records import Fault, RecordRenderer, chat_options
from headrace.ingestion.units.plan import unit_key
from headrace.ingestion.units.record import UnitRecord
from headrace.stats import Stats
from headrace.store import current_manifest
from headrace.tokens import PartEncoder, PartMarks, Tokenizer, load_tokenizer

logger = logging.getLogger("headrace.ingestion")

BATCH_BYTES = 1 << 20
"""Texts are tokenized in batches of this size."""


class StoreWriter:
    """Writes documents that your program makes into a store, in their order.

    For files, use `ingest`: it runs on all cores, and continues after a crash. What a StoreWriter has written becomes
    a store when its `with` block ends; after an error, or a kill, there is no store, and the next one starts over.

    >>> with StoreWriter("memory://written", tokenizer="byte") as writer:
    ...     writer.write("first document")
    ...     writer.extend(["second", {"text": "third", "id": 3}])
    >>> writer.snapshot, writer.num_documents
    (1, 3)

    Args:
        out: the store: a directory or a URL.
        tokenizer: see `ingest`.
        codec: compression of the store's blocks.
        fields: the field of a record with its text, which others are kept, and the longest document.
        job: sizes of shards and blocks.
        append: add to a store that is there.
        restart: delete a store that is there.

    Raises:
        ConfigError: there is a store already, or something else; or an append does not fit.
        TokenizerError: the tokenizer cannot be found or trusted.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        tokenizer: str | os.PathLike[str] | Tokenizer = "byte",
        codec: Codec = "zstd",
        fields: FieldOptions = FieldOptions(),  # noqa: B008  # frozen
        job: JobOptions = JobOptions(),  # noqa: B008
        append: bool = False,
        restart: bool = False,
    ) -> None:
        self._tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str | os.PathLike) else tokenizer
        fields = replace(fields, chat=chat_options(fields, self._tokenizer))
        self._fields = fields
        self._renderer = RecordRenderer(fields)
        self._parts = PartEncoder(self._tokenizer)
        self._stack = ExitStack()
        self._destination = self._stack.enter_context(open_destination(out, None, restart=restart))
        try:
            blob = self._destination.store
            options = ContentOptions(
                fields=fields,
                codec=codec,
                block_tokens=job.block_tokens or block_tokens_for(blob, self._tokenizer),
                shard_text_bytes=job.shard_text_bytes or SHARD_TEXT_BYTES,
            )
            self._job = IngestJob(sources=(), options=options, tokenizer=self._tokenizer, generation=0)
            self._job = self._next_job(append=append)
        except BaseException:
            self._stack.close()
            raise
        self._shards = ShardWriter(blob, options, self._tokenizer)
        self._shards.start(f"{self._job.generation:03d}-{unit_key(0, 0)}")
        self._texts: list[bytes] = []
        self._marks: list[PartMarks | None] = []
        self._meta: dict[str, list[str | None]] = {name: [] for name in fields.keep}
        self._kept = dict.fromkeys(fields.keep, 0)
        self._pending_bytes = 0
        self._stats = Stats()
        self.num_documents = 0
        self.num_tokens = 0
        self._text_bytes = self._given_tokens = 0
        self.snapshot: int | None = None
        """The store's version that was written; None until the block has ended."""

    def _next_job(self, *, append: bool) -> IngestJob:
        blob = self._destination.store
        manifest = current_manifest(blob)
        if manifest is None:
            return self._job
        if not append:
            raise ConfigError(
                f"{blob.url}: there is a store already. append=True adds to it; restart=True deletes it"
            )
        check_fits(blob, manifest, self._job)
        return replace(self._job, generation=len(past_jobs(blob, manifest)))

    def write(self, text: str | bytes, meta: Mapping[str, Any] | None = None) -> None:
        """Append a document; an empty one is left out.

        Args:
            text: the document; bytes are UTF-8.
            meta: values of the kept fields.

        Raises:
            DocumentError: it is not UTF-8, or longer than `max_document_bytes`.
        """
        if self.snapshot is not None:
            raise ConfigError("this StoreWriter is closed; make another one with append=True")
        self._write(self._checked(text), None, meta)

    def _write(self, data: bytes, marks: PartMarks | None, meta: Mapping[str, Any] | None) -> None:
        if not data:
            return
        self._texts.append(data)
        self._marks.append(marks)
        for name, values in self._meta.items():
            value = as_metadata(lookup(meta, name)) if meta is not None else None
            values.append(value)
            self._kept[name] += value is not None
        self._pending_bytes += len(data)
        if self._pending_bytes >= BATCH_BYTES:
            self._encode()

    def extend(self, documents: Iterable[str | bytes | Mapping[str, Any]]) -> None:
        """Append documents: texts, or records such as the rows of a `datasets.Dataset`: with text, or conversations.

        Raises:
            DocumentError: see `write`; or a record has no text.
        """
        for document in documents:
            if isinstance(document, Mapping):
                record = dict(document)
                text = lookup(record, self._fields.text_field)
                if isinstance(text, bytes) and self._fields.record in ("auto", "text"):
                    self.write(text, record)
                    continue
                rendered = self._renderer.render(record)
                if isinstance(rendered, Fault):
                    number = self.num_documents + len(self._texts)
                    raise DocumentError(f"document {number}: {rendered.detail}")
                self._write(self._checked(rendered[0]), rendered[1], record)
            else:
                self.write(document)

    def close(self) -> None:
        """Write what is buffered, and commit the store.

        Raises:
            DocumentError: nothing was written.
        """
        if self.snapshot is not None:
            return
        with self._stack:
            self._encode()
            if not self.num_documents:
                raise DocumentError(f"{self._destination.store.url}: no documents were written")
            self._shards.flush(self._stats)
            for name, count in self._kept.items():
                if not count:
                    logger.warning(
                        "no document has a value in the kept field %r: is this its name? The store has nulls there",
                        name,
                    )
            record = UnitRecord(
                track=0,
                part=0,
                shards=tuple(self._shards.entries),
                documents=self.num_documents,
                tokens=self.num_tokens,
                given_tokens=self._given_tokens,
                text_bytes=self._text_bytes,
            )
            self.snapshot = commit(self._job, self._destination, [record])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.close()

    def _checked(self, text: str | bytes) -> bytes:
        number = self.num_documents + len(self._texts)
        try:
            data = text.encode() if isinstance(text, str) else bytes(text)
        except UnicodeEncodeError as error:
            raise DocumentError(f"document {number}: not valid Unicode: {error}") from error
        fault = utf8_fault(data) if isinstance(text, bytes) else None
        if fault is not None:
            raise DocumentError(f"document {number}: byte {fault}: invalid UTF-8: byte 0x{data[fault]:02x}")
        if len(data) > self._fields.max_document_bytes:
            raise DocumentError(
                f"document {number}: {len(data):,} bytes; the limit is {self._fields.max_document_bytes:,} "
                f"(max_document_bytes)"
            )
        return data

    def _encode(self) -> None:
        if not self._texts:
            return
        parts = self._parts.encode(self._texts, self._marks) if any(self._marks) else None
        ids, offsets = (
            self._tokenizer.encode_batch(self._texts) if parts is None else (parts.ids, parts.offsets)
        )
        if parts is None and (ids == self._tokenizer.eos_id).any():
            raise TokenizerError(
                f"tokenizer {self._tokenizer.name}: a text encodes to the end-of-document id "
                f"{self._tokenizer.eos_id}. Choose another eos_token"
            )
        lengths = np.array([len(text) for text in self._texts], dtype=np.int64)
        self._shards.add(ids, offsets, lengths, self._meta, self._stats, parts)
        self.num_documents += len(lengths)
        self.num_tokens += len(ids) + len(lengths)
        self._text_bytes += int(lengths.sum())
        if parts is not None:
            self._given_tokens += int((~parts.learned).sum() + (~parts.learned_ends).sum())
        self._texts, self._marks = [], []
        self._meta = {name: [] for name in self._meta}
        self._pending_bytes = 0
