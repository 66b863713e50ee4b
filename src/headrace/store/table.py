"""The shard table's bytes <-> the first token and block of each shard, without a Python object per shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ManifestError
from headrace.store.arrow.reader import ArrowFileError, read_columns
from headrace.store.arrow.writer import table_bytes
from headrace.store.format import (
    CODECS,
    MAX_SHARD_TOKENS,
    MAX_SPAN_TOKENS,
    MAX_TOKENS,
    SPAN_TABLE_FIELDS,
    TABLE_FIELDS,
    ShardEntry,
    check_shard_name,
)
from headrace.types import Bytes


class ShardTable(Sequence[ShardEntry]):
    """A store's shards, in the order of their tokens.

    Holds the table's columns as they are in the file, 97 bytes and a name for each shard, and makes entries on access.
    """

    def __init__(
        self, data: Bytes, *, block_tokens: int, dtype: str, where: str, has_spans: bool = False
    ) -> None:
        self.where = where
        self.block_tokens = block_tokens
        self.dtype = dtype
        try:
            self._columns: dict[str, NDArray[Any]] = read_columns(
                data, SPAN_TABLE_FIELDS if has_spans else TABLE_FIELDS
            )
        except ArrowFileError as error:
            raise ManifestError(f"{where}: not a shard table: {error}") from error
        counts: NDArray[Any] = self._columns["tokens"]
        codecs: NDArray[Any] = self._columns["codec"]
        if len(counts) and (not 1 <= int(counts.min()) <= int(counts.max()) <= MAX_SHARD_TOKENS):
            raise ManifestError(
                f"{where}: a shard of {counts.min()} or {counts.max()} tokens, expected 1 to 2**40"
            )
        if len(counts) and int(codecs.max()) >= len(CODECS):
            raise ManifestError(f"{where}: codec number {codecs.max()}, expected 0 to {len(CODECS) - 1}")
        if float(counts.sum(dtype=np.float64)) > MAX_TOKENS:
            raise ManifestError(f"{where}: more than 2**62 tokens")
        if has_spans:
            nbytes: NDArray[Any] = self._columns["spans_nbytes"]
            with_spans = counts[nbytes > 0]
            if len(with_spans) and int(with_spans.max()) > MAX_SPAN_TOKENS:
                raise ManifestError(
                    f"{where}: a shard of {with_spans.max()} tokens with learned spans, expected fewer than 2**32"
                )
        self.codecs: NDArray[np.uint8] = codecs
        self.token_starts: NDArray[np.int64] = _starts(counts.astype(np.int64))
        """int64 [shards + 1]: tokens before each shard."""
        self.block_starts: NDArray[np.int64] = _starts(-(-counts.astype(np.int64) // block_tokens))
        """int64 [shards + 1]: blocks before each shard."""

    def __len__(self) -> int:
        return len(self.codecs)

    @overload
    def __getitem__(self, index: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[ShardEntry]: ...
    def __getitem__(self, index: int | slice) -> ShardEntry | list[ShardEntry]:
        if isinstance(index, slice):
            return [self._entry(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        return self._entry(index % len(self))

    def __iter__(self) -> Iterator[ShardEntry]:
        return (self._entry(i) for i in range(len(self)))

    def name(self, index: int) -> str:
        """A shard's name, checked."""
        ends = self._columns["name.ends"]
        raw = self._columns["name.bytes"][int(ends[index]) : int(ends[index + 1])].tobytes()
        return check_shard_name(raw.decode(errors="replace"), where=f"{self.where}: row {index}")

    def total(self, column: str) -> int:
        """Sum of a column of counts."""
        return int(self._columns[column].sum(dtype=np.uint64))

    def columns(self) -> dict[str, NDArray[Any]]:
        """The table's columns as they are in the file."""
        return self._columns

    def _entry(self, index: int) -> ShardEntry:
        columns = self._columns
        numbers = {name: int(columns[name][index]) for name in columns if columns[name].dtype == np.uint64}
        return ShardEntry(
            name=self.name(index),
            codec=CODECS[int(columns["codec"][index])],
            block_tokens=self.block_tokens,
            dtype=self.dtype,
            content=columns["content"][index].tobytes().hex(),
            **numbers,
        )


def encode_table(entries: Sequence[ShardEntry]) -> bytes:
    """The table's file for these shards."""
    columns: dict[str, tuple[str, Any]] = {}
    for field in SPAN_TABLE_FIELDS if any(entry.has_spans for entry in entries) else TABLE_FIELDS:
        if field.name == "codec":
            columns["codec"] = ("uint8", np.array([CODECS.index(entry.codec) for entry in entries], np.uint8))
        elif field.name == "content":
            columns["content"] = ("binary16", [bytes.fromhex(entry.content) for entry in entries])
        elif field.name == "name":
            columns["name"] = ("utf8", [entry.name for entry in entries])
        else:
            values = np.array([getattr(entry, field.name) for entry in entries], np.uint64)
            columns[field.name] = (field.type, values)
    return table_bytes(columns)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts
