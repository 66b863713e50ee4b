"""A store's manifest and shard table -> what reading needs of each shard: its file, block index, document ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ShardError
from headrace.storage import Blob
from headrace.store.arrow.reader import ArrowFileError, read_columns
from headrace.store.format import END_FIELDS, SPAN_FIELDS, ShardEntry, data_path, docs_path, spans_path
from headrace.store.index import BlockIndex, load_docs, load_index, load_spans
from headrace.store.read.learned import Spans
from headrace.store.read.lru import LruCache
from headrace.store.table import ShardTable

MAX_INDEXES: Final = 1024
"""Block indexes held in memory, 7 kB each for a shard of 16 M tokens; others are read again when used."""
MAX_ENDS: Final = 64
"""Shards' document ends held in memory, 8 bytes for each document."""
MAX_SPANS: Final = 256
"""Shards' learned spans held in memory, 8 bytes for each span."""


class ShardSource(Protocol):
    """Shards as they are stored: those of a store, or Megatron's files."""

    @property
    def blob(self) -> Blob:
        """Where the files are."""

    token_starts: NDArray[np.int64]
    """int64 [shards + 1]: tokens before each shard."""
    block_starts: NDArray[np.int64]
    """int64 [shards + 1]: blocks before each shard."""
    codecs: NDArray[np.uint8]
    data_nbytes: NDArray[Any]
    block_tokens: int
    stored_dtype: np.dtype[Any]
    """Type of the ids in the files; where it is not the store's, each block is converted when it is read."""
    has_checksums: bool

    @property
    def table(self) -> Sequence[ShardEntry]:
        """All shards; entries may be made on access."""

    @property
    def documents(self) -> int:
        """Document ends in all shards; may read them on first access."""

    def path(self, shard: int) -> str:
        """Name of a shard's data file."""

    def entry(self, shard: int) -> ShardEntry:
        """A shard's row of the table."""

    def index(self, shard: int) -> BlockIndex:
        """Positions of a shard's blocks in its data file. Raises: ShardError."""

    def ends(self, shard: int) -> NDArray[np.int64]:
        """Ends of the documents in a shard, ascending, counted from its first token. Raises: ShardError."""

    def spans(self, shard: int) -> Spans | None:
        """Learned spans of a shard; None where all its tokens are learned. Raises: ShardError."""


class StoreShardSource:
    """The shards of a store; see `ShardSource`."""

    def __init__(self, blob: Blob, table: ShardTable) -> None:
        self.blob: Blob = blob
        self.table = table
        self.token_starts = table.token_starts
        self.block_starts = table.block_starts
        self.codecs = table.codecs
        self.data_nbytes = table.columns()["data_nbytes"]
        self.block_tokens = table.block_tokens
        self.stored_dtype = np.dtype(table.dtype)
        self.has_checksums = True
        self.documents = table.total("documents")
        self._indexes = LruCache[BlockIndex](MAX_INDEXES, lambda shard: load_index(blob, table[shard]))
        self._ends = LruCache[NDArray[np.int64]](MAX_ENDS, self._load_ends)
        self._spans = LruCache[Spans](MAX_SPANS, self._load_spans)
        self._spans_nbytes = table.columns().get("spans_nbytes")

    def path(self, shard: int) -> str:
        """See `ShardSource.path`."""
        return data_path(self.table.name(shard))

    def entry(self, shard: int) -> ShardEntry:
        """See `ShardSource.entry`."""
        return self.table[shard]

    def index(self, shard: int) -> BlockIndex:
        """See `ShardSource.index`."""
        return self._indexes.get(shard)

    def ends(self, shard: int) -> NDArray[np.int64]:
        """See `ShardSource.ends`."""
        return self._ends.get(shard)

    def spans(self, shard: int) -> Spans | None:
        """See `ShardSource.spans`."""
        if self._spans_nbytes is None or not self._spans_nbytes[shard]:
            return None
        return self._spans.get(shard)

    def _load_spans(self, shard: int) -> Spans:
        entry = self.table[shard]
        where = f"{self.blob.url}/{spans_path(entry.name)}"
        try:
            columns = read_columns(load_spans(self.blob, entry), SPAN_FIELDS)
        except ArrowFileError as error:
            raise ShardError(f"{where}: not a file of learned spans: {error}") from error
        begins, ends = columns["begin"].astype(np.uint32), columns["end"].astype(np.uint32)
        if len(begins) and (
            int(ends[-1]) > entry.tokens
            or bool((begins >= ends).any())
            or bool((ends[:-1] >= begins[1:]).any())
        ):
            raise ShardError(
                f"{where}: spans do not ascend within 0 to {entry.tokens}, apart from each other. Forged?"
            )
        return Spans(begins=begins, ends=ends)

    def _load_ends(self, shard: int) -> NDArray[np.int64]:
        entry = self.table[shard]
        where = f"{self.blob.url}/{docs_path(entry.name)}"
        try:
            ends = read_columns(load_docs(self.blob, entry), END_FIELDS)["end"].astype(np.int64)
        except ArrowFileError as error:
            raise ShardError(f"{where}: not a document file: {error}") from error
        if len(ends) != entry.documents:
            raise ShardError(f"{where}: {len(ends)} documents, the shard table says {entry.documents}")
        if len(ends) and (ends[0] < 1 or ends[-1] > entry.tokens or bool((np.diff(ends) < 1).any())):
            raise ShardError(f"{where}: document ends do not ascend within 1 to {entry.tokens}. Forged?")
        return ends


def ends_between(source: ShardSource, start: int, stop: int) -> NDArray[np.int64]:
    """int64 [n], ascending: document ends inside (start, stop] of the stream; reads the ends of those shards."""
    starts = source.token_starts
    first = int(starts.searchsorted(start, "right")) - 1
    last = int(starts.searchsorted(stop, "left"))
    parts = []
    for shard in range(max(0, first), min(last, len(starts) - 1)):
        ends, base = source.ends(shard), int(starts[shard])
        low, high = ends.searchsorted((start - base, stop - base), "right").tolist()
        parts.append(ends[low:high] + base)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
