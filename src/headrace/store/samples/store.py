"""A URL of a store of samples -> its rows: opened in milliseconds, every block checked, read in any order."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, ManifestError, StoreError
from headrace.platform import after_fork_in_child
from headrace.stats import Stats
from headrace.storage import Blob, absolute_url, open_blob
from headrace.store.format import CODECS, MANIFEST, snapshot_path
from headrace.store.samples.blocks import BlockReader
from headrace.store.samples.columns import Column, Ragged, take_rows, value_at
from headrace.store.samples.commit import current_samples, read_sample_table
from headrace.store.samples.features import Feature, is_bytes, number_dtype
from headrace.store.samples.gather import gather_column
from headrace.store.samples.locate import locate_rows, read_blocks_of
from headrace.store.samples.manifest import SampleManifest
from headrace.store.samples.table import SampleShardEntry, SampleTable
from headrace.store.samples.tokenizer import read_sample_tokenizer_files

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

CACHE_BYTES = 256 << 20

_open_stores: weakref.WeakSet[SampleStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_open_stores):
        store._forked()  # noqa: SLF001  # the module's own


after_fork_in_child(_after_fork)


class SampleStore:
    """Rows with typed columns: images and labels, boxes, histories. Safe for threads; pickled by its URL and options.

    >>> from headrace.store import (
    ...     ClassLabel,
    ...     List,
    ...     Value,
    ...     commit_samples,
    ...     columns_of_rows,
    ...     write_sample_shard,
    ... )
    >>> features = {"label": ClassLabel(("cat", "dog")), "scores": List(Value("float32"))}
    >>> rows = [{"label": "dog", "scores": [0.5]}, {"label": 0, "scores": []}]
    >>> entry = write_sample_shard("memory://doc-samples", "s0", columns_of_rows(rows, features), features)
    >>> commit_samples("memory://doc-samples", [entry], features=features)
    1
    >>> store = SampleStore.open("memory://doc-samples")
    >>> store[0]
    {'label': 1, 'scores': array([0.5], dtype=float32)}
    >>> store.gather([1, 0, 0])["scores"].offsets.tolist()
    [0, 0, 1, 2]
    """

    def __init__(
        self, blob: Blob, manifest: SampleManifest, table: SampleTable, *, options: dict[str, Any]
    ) -> None:
        self._blob = blob
        self._manifest = manifest
        self._table = table
        self._options = options
        self.stats = Stats()
        """Counters of the stages `read` (requests to a remote) and `decode` (blocks checked and decoded)."""
        self._blocks: BlockReader | None = self._new_reader()
        _open_stores.add(self)

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        verify: bool = True,
        cache_bytes: int = CACHE_BYTES,
        snapshot: int | None = None,
    ) -> Self:
        """Open a store; reads its manifest and shard table, no shard.

        Args:
            url: a path, or file://, memory://, s3://, gs://, az://, http(s)://.
            verify: check every block before its bytes are first used.
            cache_bytes: most bytes of decoded blocks in memory; for compressed and remote stores.
            snapshot: an older state of a store that was appended to; the newest by default.

        Raises:
            ConfigError: an option out of range.
            ManifestError: no store there, an incomplete or damaged one, or a store of tokens.
            WorkerError: the remote cannot be reached.
        """
        if cache_bytes < 0:
            raise ConfigError(f"cache_bytes is {cache_bytes}; expected 0 or more")
        blob = open_blob(url)
        manifest = current_samples(blob, snapshot)
        if manifest is None:
            name = MANIFEST if snapshot is None else snapshot_path(snapshot)
            raise ManifestError(
                f"{blob.url}: no {name}, so this is not a complete store. Wrong path, or an ingest that was killed? "
                "Run the same ingest command again to finish it."
            )
        options = {
            "url": absolute_url(url, name="store"),
            "verify": verify,
            "cache_bytes": cache_bytes,
            "snapshot": snapshot,
        }
        return cls(blob, manifest, read_sample_table(blob, manifest), options=options)

    def _new_reader(self) -> BlockReader:
        return BlockReader(
            self._blob,
            self._table,
            self._manifest.features,
            verify=self._options["verify"],
            cache_bytes=self._options["cache_bytes"],
            stats=self.stats,
        )

    def _reader(self) -> BlockReader:
        if self._blocks is None:
            raise StoreError(f"{self.url}: the store was closed; open it again")
        return self._blocks

    def _forked(self) -> None:
        """Make new threads and locks: a forked child has no threads, and locks may be held by threads of its parent."""
        if self._blocks is not None:
            self._blocks = self._new_reader()

    # --- properties ---

    @property
    def url(self) -> str:
        """The URL or absolute path that it was opened with."""
        return str(self._options["url"])

    @property
    def blob(self) -> Blob:
        """Where the files are."""
        return self._blob

    @property
    def manifest(self) -> SampleManifest:
        """The manifest of the snapshot."""
        return self._manifest

    @property
    def snapshot(self) -> int:
        """The snapshot's number."""
        return self._manifest.snapshot

    @property
    def fingerprint(self) -> str:
        """32 hex digits: a hash of the columns' names, types and values; the same for every codec."""
        return self._manifest.fingerprint

    @property
    def features(self) -> Mapping[str, Feature]:
        """Name -> type of each column."""
        return self._manifest.features

    @property
    def num_rows(self) -> int:
        """Rows of the store."""
        return self._manifest.rows

    @property
    def num_shards(self) -> int:
        """Shards of the store."""
        return self._manifest.num_shards

    @property
    def num_blocks(self) -> int:
        """Blocks of the store."""
        return int(self._table.block_starts[-1])

    @property
    def nbytes(self) -> int:
        """Stored bytes of all shards' files."""
        return self._manifest.nbytes

    @property
    def codec(self) -> str:
        """Codec of all shards: none | lz4 | zstd, or mixed."""
        codecs = np.unique(self._table.codecs)
        return CODECS[int(codecs[0])] if len(codecs) == 1 else "mixed"

    @property
    def extra(self) -> dict[str, Any]:
        """JSON values that the writer stored in the manifest."""
        return dict(self._manifest.extra)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the columns of tokens; None where the store has none.

        Raises:
            ManifestError: one of its files is missing or damaged.
        """
        files = self.tokenizer_files()
        if not files:
            return None
        from headrace.tokens import tokenizer_from_files

        return tokenizer_from_files(files)

    def tokenizer_files(self) -> dict[str, bytes]:
        """Names and contents of the tokenizer's files, checked; empty where the store has none.

        Raises:
            ManifestError: one is missing or damaged.
        """
        return read_sample_tokenizer_files(self._blob, self._manifest)

    @property
    def shards(self) -> Sequence[SampleShardEntry]:
        """The shard table; entries are made on access."""
        return self._table

    # --- rows ---

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One row: name -> value as Python has it (bytes for an image).

        Raises:
            IndexError: no such row.
            ShardError: its block is damaged or missing.
        """
        if not -self.num_rows <= row < self.num_rows:
            raise IndexError(f"row {row} of {self.num_rows}")
        ((columns, inside),) = self._located(np.array([row % self.num_rows]))[0]
        return {
            name: value_at(columns[name], int(inside[0]), feature) for name, feature in self.features.items()
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(self.num_rows))

    def gather(
        self, rows: NDArray[np.int64] | Sequence[int], columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """Rows in any order.

        Args:
            rows: int64 [N], each in [0, num_rows).
            columns: their names; all by default.

        Returns:
            name -> array [N, ...], or a `Ragged` of values and offsets (uint8 values for images and strings); copies.

        Raises:
            ConfigError: no such column.
            OrderError: no such row.
            ShardError: a block is damaged or missing.
        """
        names = self._names(columns)
        rows = np.asarray(rows, np.int64).reshape(-1)
        if not len(rows):
            return self._empty(names)
        groups, places = self._located(rows)
        return {name: gather_column(name, groups, places) for name in names}

    def lengths(self, rows: NDArray[np.int64] | Sequence[int], columns: Sequence[str]) -> NDArray[np.int64]:
        """How many values rows have in ragged columns, int64 [N, columns]; reads the offsets of their blocks.

        Args:
            rows: int64 [N], each in [0, num_rows), in any order.
            columns: of tokens, lists, images, strings or bytes.

        Raises:
            ConfigError: no such column, or one of numbers.
            OrderError: no such row.
            ShardError: a block is damaged or missing.
        """
        for name in self._names(columns):
            if number_dtype(self.features[name]) is not None:
                raise ConfigError(
                    f"{self.url}: column {name!r} is {self.features[name]}: its rows have no lengths"
                )
        rows = np.asarray(rows, np.int64).reshape(-1)
        out = np.empty((len(rows), len(columns)), np.int64)
        groups, places = self._located(rows)
        at = 0
        for found, inside in groups:
            chosen = places[at : at + len(inside)]
            for number, name in enumerate(columns):
                column: Any = found[name]  # a Ragged: not of numbers
                offsets = column.offsets
                out[chosen, number] = offsets[inside + 1] - offsets[inside]
            at += len(inside)
        return out

    def bytes_of(self, rows: NDArray[np.int64] | Sequence[int], column: str) -> list[memoryview]:
        """The bytes of one column of images, strings or binary values, not copied.

        Raises:
            ConfigError: no such column, or one of another type.
            OrderError: no such row.
            ShardError: a block is damaged or missing.
        """
        self._names([column])
        if not is_bytes(self.features[column]):
            raise ConfigError(f"{self.url}: column {column!r} is {self.features[column]}, not bytes")
        rows = np.asarray(rows, np.int64).reshape(-1)
        groups, places = self._located(rows)
        views: list[memoryview] = [memoryview(b"")] * len(rows)
        at = 0
        for found, inside in groups:
            ragged = found[column]
            assert isinstance(ragged, Ragged)
            data = memoryview(ragged.values)
            starts, stops = ragged.offsets[inside].tolist(), ragged.offsets[inside + 1].tolist()
            for place, start, stop in zip(places[at : at + len(inside)].tolist(), starts, stops, strict=True):
                views[place] = data[start:stop]
            at += len(inside)
        return views

    def shard_blocks(self, shard: int) -> Iterator[dict[str, Column]]:
        """The columns of each block of a shard, in order, not copied.

        Raises:
            ShardError: a block is damaged or missing.
        """
        for number in range(int(self._table.block_starts[shard]), int(self._table.block_starts[shard + 1])):
            yield self._reader().get([number])[number].columns

    def prefetch(self, rows: NDArray[np.int64] | Sequence[int]) -> None:
        """Begin to fetch the blocks of rows that will be read, where the store is remote."""
        rows = np.asarray(rows, np.int64)
        if len(rows) and "://" in self.url:
            blocks, _ = locate_rows(rows, self._table, self._reader())
            self._reader().prefetch(np.unique(blocks).tolist())

    def _names(self, columns: Sequence[str] | None) -> list[str]:
        names = list(self.features) if columns is None else list(columns)
        for name in names:
            if name not in self.features:
                raise ConfigError(
                    f"{self.url}: no column {name!r}; the columns are: {', '.join(self.features)}"
                )
        return names

    def _empty(self, names: Sequence[str]) -> dict[str, Column]:
        first = self.gather([0], names)
        return {name: take_rows(column, np.empty(0, np.int64)) for name, column in first.items()}

    def _located(
        self, rows: NDArray[np.int64]
    ) -> tuple[list[tuple[dict[str, Column], NDArray[np.int64]]], NDArray[np.int64]]:
        return read_blocks_of(rows, self._table, self._reader())

    # --- closing and copying ---

    def close(self) -> None:
        """Release memory and threads; what was read stays valid, and threads that wait for rows get an error."""
        reader, self._blocks = self._blocks, None
        if reader is not None:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # The snapshot is pinned: another process reads the same rows, whatever is appended meanwhile.
        return _open, (type(self), {**self._options, "snapshot": self._manifest.snapshot})

    def __repr__(self) -> str:
        return (
            f"SampleStore({self.url!r}: {self.num_rows:,} rows of {', '.join(self.features)}, "
            f"{self.num_shards:,} shards, {self.codec})"
        )


def _open(cls: type[SampleStore], options: dict[str, Any]) -> SampleStore:
    return cls.open(options.pop("url"), **options)
