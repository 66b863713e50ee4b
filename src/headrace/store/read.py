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
from headrace.stats import Stats
from headrace.storage import Blob, LocalBlob, open_blob
from headrace.store.commit import current_manifest, read_table, read_tokenizer_files
from headrace.store.format import CODECS, MANIFEST, ShardEntry, snapshot_path
from headrace.store.found import Found
from headrace.store.gather import Gather
from headrace.store.manifest import Manifest
from headrace.store.megatron import MegatronSource, find_pairs, megatron_manifest
from headrace.store.source import Source, StoreSource, ends_between

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

CACHE_BYTES = 256 << 20
CACHE_DIR_BYTES = 16 << 30


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_open_stores):
        store._forked()  # noqa: SLF001  # the module's own


os.register_at_fork(after_in_child=_after_fork)


class Store:
    """One stream of tokens, documents ending with the end-of-document id.

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
        source: Source,
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

        Megatron's .bin and .idx files (either of them, their prefix, or a directory of them) are opened in place.

        Args:
            url: a path, or file://, memory://, s3://, gs://, az://, http(s)://.
            verify: check every block before its bytes are first used.
            cache_dir: for remote stores, a local directory that all processes of the machine share, so that a
                block is fetched once per machine; none by default.
            cache_bytes: most bytes of decoded blocks in memory; used by compressed and remote stores.
            cache_dir_bytes: most bytes of blocks in `cache_dir`.
            snapshot: an older state of a store that was appended to; the newest by default.
            tokenizer: for Megatron files, which carry none: what `load_tokenizer` takes.

        Raises:
            ConfigError: an option out of range, or `tokenizer` for a store that has its own.
            ManifestError: nothing there, or not a complete store, or damaged.
            WorkerError: the remote cannot be reached.
        """
        if cache_bytes < 0 or cache_dir_bytes < 0:
            raise ConfigError(
                f"cache_bytes {cache_bytes}, cache_dir_bytes {cache_dir_bytes}: wanted at least 0"
            )
        options = {
            "url": os.fspath(url),
            "verify": verify,
            "cache_dir": None if cache_dir is None else os.fspath(cache_dir),
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
        source = StoreSource(blob, read_table(blob, manifest))
        try:
            return cls(blob, manifest, source, options=options)
        except OSError as error:
            raise ManifestError(
                f"{blob.url}: {source.block_starts[-1]} blocks, more than can be addressed ({error}). Forged?"
            ) from error

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
        """A forked child has no threads, and locks that nobody will open: it starts with its own."""
        if self._gather is not None:
            self._gather = self._new_gather()

    # --- what it is ---

    @property
    def url(self) -> str:
        """What it was opened with."""
        return str(self._options["url"])

    @property
    def manifest(self) -> Manifest:
        """All that the manifest says."""
        return self._manifest

    @property
    def snapshot(self) -> int:
        """The snapshot's number."""
        return self._manifest.snapshot

    @property
    def fingerprint(self) -> str:
        """32 hex digits of the tokens, document ends, tokenizer and type; the same for every codec."""
        return self._manifest.fingerprint

    @property
    def num_tokens(self) -> int:
        """Tokens of the stream, ends of documents included."""
        return self._manifest.tokens

    @property
    def num_documents(self) -> int:
        """Documents that end in the stream."""
        return self._manifest.documents

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
        """Of the tokenizer's definition."""
        return self._manifest.tokenizer_fingerprint

    @property
    def extra(self) -> dict[str, Any]:
        """What the writer kept in the manifest."""
        return dict(self._manifest.extra)

    @property
    def shards(self) -> Sequence[ShardEntry]:
        """The shard table; entries are made when they are asked for."""
        return self._source.table

    @property
    def checked(self) -> bool:
        """Whether blocks have checksums: all but Megatron files."""
        return self._source.checked

    @property
    def token_starts(self) -> NDArray[np.int64]:
        """int64 [num_shards + 1]: tokens before each shard."""
        return self._source.token_starts

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that travels in the store.

        Raises:
            ConfigError: Megatron files, and none was named.
            ManifestError: its files are missing or damaged.
        """
        if self._tokenizer is None:
            if not self._manifest.tokenizer_files:
                raise ConfigError(
                    f"{self.url}: carries no tokenizer; name it: Store.open(..., tokenizer=...)"
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

    def num_rows(self, seq_len: int) -> int:
        """Rows of seq_len inputs and one token of lookahead: (num_tokens - 1) // seq_len.

        Raises:
            OrderError: seq_len < 1.
        """
        if seq_len < 1:
            raise OrderError(f"seq_len {seq_len}: at least 1 is needed")
        return max(0, self.num_tokens - 1) // seq_len

    # --- its tokens ---

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
            out: where to put them: dtype [N, length], C order.

        Returns:
            dtype [N, length]: `out`, or a new array.

        Raises:
            OrderError: a row leaves the stream.
            ShardError: a block is damaged or missing.
        """
        return self._reader().gather(starts, length, out)

    def find(self, starts: NDArray[np.int64], length: int) -> Found:
        """Look up rows of many batches ahead.

        Args:
            starts: int64 [batches, B], each in [0, num_tokens - length].
            length: tokens in a row; >= 1.

        Returns:
            What reads a batch in one step where all its rows are mapped and checked, or each of them lies in
            one decoded block; `gather` reads the others.
        """
        return self._reader().find(starts, length)

    def prefetch(
        self, starts: NDArray[np.int64] | Sequence[int], length: int, *, ordered: bool = True
    ) -> None:
        """Begin to fetch remote blocks of rows that `gather` will be asked for.

        Args:
            starts: int64 [N], each in [0, num_tokens - length].
            length: tokens in a row; >= 1.
            ordered: `gather` will be asked for these very rows, in this order, after those announced before: of
                decoded blocks, those needed last give way first. Otherwise those used least recently do.
        """
        self._reader().prefetch(starts, length, ordered=ordered)

    def cache_rows(self, seq_len: int) -> int:
        """Rows of seq_len tokens that its cache of fetched and decoded blocks holds."""
        return self._reader().cached_tokens // seq_len

    def document_ends(self, start: int, stop: int) -> NDArray[np.int64]:
        """Where documents end inside (start, stop]: positions one past each end-of-document token.

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

    def verify(self, progress: Callable[[int, int | None, str], None] | None = None) -> int:
        """Read and check every byte of the snapshot.

        Args:
            progress: called with (bytes checked, bytes in all, shard).

        Returns:
            Bytes checked.

        Raises:
            ShardError: the first damage found: which file, got, wanted.
            ManifestError: the tokenizer's files are missing or damaged.
        """
        from headrace.store.verify import verify

        return verify(self, progress=progress)

    # --- its life ---

    def close(self) -> None:
        """Give back memory and threads; what was gathered stays valid. A second call does nothing."""
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
        # The snapshot is pinned: another process reads what this one reads, whatever is appended meanwhile.
        options = {**self._options, "snapshot": self._manifest.snapshot}
        return _open, (type(self), options)

    def __repr__(self) -> str:
        return (
            f"Store({self.url!r}: {self.num_tokens:,} tokens, {self.num_documents:,} documents, "
            f"{self.num_shards:,} shards, {self.codec})"
        )


def _open(cls: type[Store], options: dict[str, Any]) -> Store:
    return cls.open(options.pop("url"), **options)
