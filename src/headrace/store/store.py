"""A store's URL -> its tokens: opened in milliseconds, every block checked, rows gathered in one step."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, ManifestError, OrderError, StoreError
from headrace.paths import local_path
from headrace.platform import after_fork_in_child
from headrace.stats import Stats
from headrace.storage import Blob, LocalBlob, absolute_url, open_blob
from headrace.store.commit import current_manifest, read_table, read_tokenizer_files
from headrace.store.format import CODECS, MANIFEST, ShardEntry, snapshot_path
from headrace.store.manifest import Manifest
from headrace.store.megatron.source import MegatronSource, find_pairs, megatron_manifest
from headrace.store.read.gather import Gather
from headrace.store.read.learned import learned_mask
from headrace.store.read.lookup import RowLookup
from headrace.store.read.source import ShardSource, StoreShardSource, ends_between

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

CACHE_BYTES = 256 << 20
CACHE_DIR_BYTES = 16 << 30


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_open_stores):
        store._forked()  # noqa: SLF001  # the module's own


after_fork_in_child(_after_fork)


class Store:
    """One stream of tokens; each document ends with the end-of-document id.

    Row i of length T is tokens [iT, iT + T]: T inputs and one token of lookahead. Safe for threads; pickled by its
    URL and options.

    >>> import headrace.store, headrace.tokens, numpy as np
    >>> tokens = np.frombuffer(b"to be or not to be", np.uint8).astype(np.uint16)
    >>> entry = headrace.store.write_shard("memory://doc-store", "s0", tokens, [18])
    >>> byte = headrace.tokens.load_tokenizer("byte")
    >>> headrace.store.commit_store("memory://doc-store", [entry], tokenizer=byte)
    1
    >>> store = headrace.store.Store.open("memory://doc-store")
    >>> store.gather([0, 13], 5).tobytes().decode("utf-16-le")
    'to beto be'
    """

    def __init__(
        self,
        blob: Blob,
        manifest: Manifest,
        source: ShardSource,
        *,
        options: dict[str, Any],
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._blob = blob
        self._manifest = manifest
        self._source = source
        self._options = options
        self.stats = Stats()
        """Counters of the stages `read` (requests to a remote) and `decode` (blocks checked and decoded)."""
        self._gather: Gather | None = self._new_gather()
        _open_stores.add(self)
        self._tokenizer = tokenizer

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        verify: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        cache_dir_bytes: int = CACHE_DIR_BYTES,
        snapshot: int | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Open a store; reads its manifest and shard table, no shard.

        Megatron's .bin and .idx files (one of the two, their prefix, or a directory of them) are read in place. A
        local path is made absolute: a later chdir changes nothing.

        Args:
            url: a path, or file://, memory://, s3://, gs://, az://, http(s)://.
            verify: check every block before its bytes are first used.
            cache_dir: for remote stores, a local directory that all processes of the machine share, so that a
                block is fetched once per machine; none by default.
            cache_bytes: most bytes of decoded blocks in memory; for compressed and remote stores.
            cache_dir_bytes: most bytes of blocks in `cache_dir`.
            snapshot: an older state of a store that was appended to; the newest by default.
            tokenizer: for Megatron files, which have none: as for `load_tokenizer`.

        Raises:
            ConfigError: an option out of range, an unusable `cache_dir`, or `tokenizer` for a store that has one.
            ManifestError: no store there, or an incomplete or damaged one.
            WorkerError: the remote cannot be reached.
        """
        if cache_bytes < 0 or cache_dir_bytes < 0:
            raise ConfigError(
                f"cache_bytes {cache_bytes}, cache_dir_bytes {cache_dir_bytes}: expected at least 0"
            )
        options = {
            "url": absolute_url(url, name="store"),
            "verify": verify,
            "cache_dir": None
            if cache_dir is None
            else str(local_path(cache_dir, name="cache_dir").absolute()),
            "cache_bytes": cache_bytes,
            "cache_dir_bytes": cache_dir_bytes,
            "snapshot": snapshot,
            "tokenizer": None if tokenizer is None else os.fspath(tokenizer),
        }
        pairs = find_pairs(url)
        if pairs is not None:
            return cls._open_megatron(MegatronSource(LocalBlob(pairs[0]), pairs[1]), tokenizer, options)
        if tokenizer is not None:
            raise ConfigError(
                f"{os.fspath(url)}: a store has its own tokenizer; leave out tokenizer={tokenizer!r}"
            )
        blob = open_blob(url)
        manifest = current_manifest(blob, snapshot)
        if manifest is None:
            name = MANIFEST if snapshot is None else snapshot_path(snapshot)
            raise ManifestError(
                f"{blob.url}: no {name}, so this is not a complete store. Wrong path, or an ingest that was killed? "
                "Run the same ingest command again to finish it."
            )
        source = StoreShardSource(blob, read_table(blob, manifest))
        return cls(blob, manifest, source, options=options)

    @classmethod
    def _open_megatron(
        cls, source: MegatronSource, tokenizer: str | os.PathLike[str] | None, options: dict[str, Any]
    ) -> Self:
        own = None
        if tokenizer is not None:
            from headrace.tokens import load_tokenizer

            own = load_tokenizer(tokenizer)
        return cls(source.blob, megatron_manifest(source, own), source, options=options, tokenizer=own)

    def _new_gather(self) -> Gather:
        return Gather(
            self._source,
            self.dtype,
            verify=self._options["verify"],
            cache_bytes=self._options["cache_bytes"],
            cache_dir=self._options["cache_dir"],
            cache_dir_bytes=self._options["cache_dir_bytes"],
            stats=self.stats,
        )

    def _reader(self) -> Gather:
        if self._gather is None:
            raise StoreError(f"{self.url}: the store was closed; open it again")
        return self._gather

    def _forked(self) -> None:
        """Make new threads and locks: a forked child has no threads, and locks may be held by threads of its parent."""
        if self._gather is not None:
            self._gather = self._new_gather()

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
    def manifest(self) -> Manifest:
        """The manifest of the snapshot."""
        return self._manifest

    @property
    def snapshot(self) -> int:
        """The snapshot's number."""
        return self._manifest.snapshot

    @property
    def fingerprint(self) -> str:
        """32 hex digits: a hash of the tokens, document ends, tokenizer and type; the same for every codec."""
        return self._manifest.fingerprint

    @property
    def num_tokens(self) -> int:
        """Tokens of the stream, end-of-document ids included."""
        return self._manifest.tokens

    @property
    def num_documents(self) -> int:
        """Documents that end in the stream, as many as `document_ends` has."""
        return self._source.documents

    @property
    def num_shards(self) -> int:
        """Shards of the stream."""
        return self._manifest.num_shards

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return np.dtype(self._manifest.dtype)

    @property
    def vocab_size(self) -> int:
        """Ids lie in [0, vocab_size)."""
        return self._manifest.vocab_size

    @property
    def eos_id(self) -> int:
        """The id that ends a document; -1 for Megatron files opened without a tokenizer."""
        return self._manifest.eos_id

    @property
    def block_tokens(self) -> int:
        """Tokens in each block but a shard's last."""
        return self._manifest.block_tokens

    @property
    def nbytes(self) -> int:
        """Stored bytes of all shards' files."""
        return self._manifest.nbytes

    @property
    def codec(self) -> str:
        """Codec of all shards: none | lz4 | zstd, or mixed."""
        codecs = np.unique(self._source.codecs)
        return CODECS[int(codecs[0])] if len(codecs) == 1 else "mixed"

    @property
    def tokenizer_fingerprint(self) -> str:
        """Hash of the tokenizer's definition."""
        return self._manifest.tokenizer_fingerprint

    @property
    def extra(self) -> dict[str, Any]:
        """JSON values that the writer stored in the manifest."""
        return dict(self._manifest.extra)

    @property
    def shards(self) -> Sequence[ShardEntry]:
        """The shard table; entries are made on access."""
        return self._source.table

    @property
    def has_checksums(self) -> bool:
        """Whether blocks have checksums; Megatron files have none."""
        return self._source.has_checksums

    @property
    def token_starts(self) -> NDArray[np.int64]:
        """int64 [num_shards + 1]: tokens before each shard."""
        return self._source.token_starts

    @property
    def has_tokenizer(self) -> bool:
        """Whether the store has a tokenizer: Megatron files have none, unless one was named."""
        return self._tokenizer is not None or bool(self._manifest.tokenizer_files)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that is stored in the store.

        Raises:
            ConfigError: Megatron files that were opened without one.
            ManifestError: its files are missing or damaged.
        """
        if self._tokenizer is None:
            if not self._manifest.tokenizer_files:
                raise ConfigError(
                    f"{self.url}: has no tokenizer: name it, Store.open(..., tokenizer=...) or --tokenizer"
                )
            from headrace.tokens import tokenizer_from_files

            self._tokenizer = tokenizer_from_files(self.tokenizer_files())
        return self._tokenizer

    def tokenizer_files(self) -> dict[str, bytes]:
        """Names and contents of the tokenizer's files, checked.

        Raises:
            ManifestError: missing or damaged.
        """
        return read_tokenizer_files(self._blob, self._manifest)

    @property
    def has_spans(self) -> bool:
        """Whether some tokens are given, not learned; else every token is learned. See `learned`."""
        return self._manifest.has_spans

    def num_rows(self, seq_len: int) -> int:
        """Rows of seq_len inputs and one token of lookahead: (num_tokens - 1) // seq_len.

        Raises:
            OrderError: seq_len < 1.
        """
        if seq_len < 1:
            raise OrderError(f"seq_len {seq_len}: at least 1 is needed")
        return max(0, self.num_tokens - 1) // seq_len

    # --- tokens ---

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens [start, stop) of the stream.

        Returns:
            dtype [stop - start], a copy.

        Raises:
            OrderError: not 0 <= start <= stop <= num_tokens.
            ShardError: a block is damaged or missing.
        """
        return self._reader().read(start, stop)

    def gather(
        self, starts: NDArray[np.int64] | Sequence[int], length: int, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Rows of `length` tokens that begin at `starts`.

        Args:
            starts: int64 [N], each in [0, num_tokens - length].
            length: tokens in a row; >= 1.
            out: receives the rows: dtype [N, length], C order.

        Returns:
            dtype [N, length]: `out`, or a new array.

        Raises:
            OrderError: a row leaves the stream.
            ShardError: a block is damaged or missing.
        """
        return self._reader().gather(starts, length, out)

    def lookup(self, starts: NDArray[np.int64], length: int) -> RowLookup:
        """Compute the addresses of many batches' rows ahead of reading them.

        Args:
            starts: int64 [batches, B], each in [0, num_tokens - length].
            length: tokens in a row; >= 1.

        Returns:
            An object that reads a batch in one step where all its rows are mapped and checked, or each of them is in
            one decoded block; `gather` reads the other batches.
        """
        return self._reader().lookup(starts, length)

    def prefetch(
        self, starts: NDArray[np.int64] | Sequence[int], length: int, *, ordered: bool = True
    ) -> None:
        """Begin to fetch remote blocks of rows that `gather` will read.

        Args:
            starts: int64 [N], each in [0, num_tokens - length].
            length: tokens in a row; >= 1.
            ordered: `gather` will read exactly these rows, in this order, after those announced before: of the
                decoded blocks, those needed last are evicted first. Otherwise those used least recently are.
        """
        self._reader().prefetch(starts, length, ordered=ordered)

    def cache_rows(self, seq_len: int) -> int:
        """Rows of seq_len tokens that the cache of decoded blocks holds at most."""
        return self._reader().cached_tokens // seq_len

    def document_ends(self, start: int, stop: int) -> NDArray[np.int64]:
        """Document ends inside (start, stop]: positions one past each end-of-document token.

        Returns:
            int64 [n], ascending.

        Raises:
            OrderError: not 0 <= start <= stop <= num_tokens.
            ShardError: a document file is damaged or missing.
        """
        self._reader()
        if not 0 <= start <= stop <= self.num_tokens:
            raise OrderError(f"{self.url}: ends in ({start}, {stop}], the store has {self.num_tokens} tokens")
        return ends_between(self._source, start, stop)

    def learned(
        self, starts: NDArray[np.int64] | Sequence[int], lengths: NDArray[np.int64] | int
    ) -> NDArray[np.bool_]:
        """Which tokens are learned, in pieces of the stream.

        Args:
            starts: int64 [N], first token of each piece.
            lengths: tokens of each piece, int64 [N], or one length for all.

        Returns:
            bool [sum of the lengths], piece after piece. All True in a store without spans.

        Raises:
            OrderError: a piece leaves the stream.
            ShardError: a file of spans is damaged or missing.
        """
        self._reader()
        starts = np.asarray(starts, np.int64)
        lengths = np.broadcast_to(np.asarray(lengths, np.int64), starts.shape)
        if len(starts) and (
            int(starts.min()) < 0 or int(lengths.min()) < 0 or int((starts + lengths).max()) > self.num_tokens
        ):
            raise OrderError(f"{self.url}: a piece leaves the stream of {self.num_tokens} tokens")
        if not self.has_spans:
            return np.ones(int(lengths.sum()), np.bool_)
        return learned_mask(self._source.spans, self.token_starts, starts, lengths)

    # --- closing and copying ---

    def close(self) -> None:
        """Release memory and threads; gathered rows stay valid, and threads that wait for rows get an error."""
        gather, self._gather = self._gather, None
        if gather is not None:
            gather.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # The snapshot is pinned: another process reads the same tokens, whatever is appended meanwhile.
        options = {**self._options, "snapshot": self._manifest.snapshot}
        return _open, (type(self), options)

    def __repr__(self) -> str:
        return (
            f"Store({self.url!r}: {self.num_tokens:,} tokens, {self.num_documents:,} documents, "
            f"{self.num_shards:,} shards, {self.codec})"
        )


def _open(cls: type[Store], options: dict[str, Any]) -> Store:
    return cls.open(options.pop("url"), **options)
