r"""Megatron's .bin and .idx files -> shards that are read in place.

    .idx    "MMIDIDX\0\0", uint64 version = 1, uint8 type, uint64 sequences, uint64 documents + 1,
            int32 length of each sequence, int64 first byte of each sequence in .bin,
            int64 first sequence of each document and, last, the number of sequences; little-endian
    .bin    the sequences' ids, one after the other, of one of Megatron's integer types

They have no checksums and no tokenizer: what a store promises about damage does not hold for them.

Source: megatron.core.datasets.indexed_dataset, class _IndexWriter and enum DType.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ManifestError, ShardError
from headrace.paths import given_path
from headrace.storage import LocalBlob, absolute_url
from headrace.store.format import BLOCK_TOKENS, ShardEntry
from headrace.store.index import BlockIndex
from headrace.store.manifest import FileSum, Manifest, fingerprint_of
from headrace.store.read.lru import LruCache

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

MAGIC: Final = b"MMIDIDX\x00\x00"
HEADER: Final = struct.Struct("<9sQBQQ")
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<u2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
"""Megatron's integer types by their number. int16 (3) and int32 (4) are read as unsigned: ids are never negative, and
`verify_store` names one that is."""
_NUM_IDS: Final = {1: 1 << 8, 2: 1 << 16, 4: 1 << 31, 8: 1 << 32}
"""Ids of a store without tokenizer, by bytes of its ids."""
_SAMPLES: Final = 64
_SAMPLE_NBYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class _Pair:
    """One .bin and its .idx."""

    name: str
    """Without suffix."""
    dtype: np.dtype[Any]
    sequences: int
    documents: int
    tokens: int


def find_pairs(url: str | os.PathLike[str]) -> tuple[Path, list[str]] | None:
    """A path -> the directory and names of its Megatron pairs; None if it names none.

    It may be a .bin, an .idx, their common prefix, or a directory of pairs that is not a store.
    """
    text = given_path(url, name="store").removeprefix("file://")
    if "://" in text:
        return None
    path = Path(absolute_url(text))
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if prefix.name and prefix.with_name(prefix.name + ".idx").is_file():
        return prefix.parent, [prefix.name]
    if path.is_dir() and not (path / "manifest.json").exists():
        names = sorted(file.name.removesuffix(".idx") for file in path.glob("*.idx"))
        return (path, names) if names else None
    return None


def is_megatron(url: str | os.PathLike[str]) -> bool:
    """Whether a path names Megatron's files, and not a store."""
    return find_pairs(url) is not None


class MegatronSource:
    """Pairs of one directory, one shard each, in the order of their names; see `ShardSource`."""

    def __init__(self, blob: LocalBlob, names: Sequence[str]) -> None:
        """Read the headers.

        Raises:
            ManifestError: not an index of version 1, or another length than its header says.
            ShardError: a .bin that is missing or of another length.
        """
        self.blob = blob
        self._pairs = [_read_header(blob, name) for name in names]
        types = {pair.dtype for pair in self._pairs}
        if len(types) != 1:
            raise ManifestError(f"{blob.url}: the .bin files have ids of several types; open them one by one")
        self.stored_dtype = types.pop()
        self.dtype = np.dtype(np.uint16 if self.stored_dtype.itemsize <= 2 else np.uint32)
        """Type of the store's ids."""
        counts = np.array([pair.tokens for pair in self._pairs], np.int64)
        self.token_starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self.block_tokens = BLOCK_TOKENS
        self.block_starts = np.concatenate(([0], np.cumsum(-(-counts // BLOCK_TOKENS)))).astype(np.int64)
        self.codecs = np.zeros(len(counts), np.uint8)
        self.data_nbytes: NDArray[Any] = counts * self.stored_dtype.itemsize
        self.has_checksums = False
        self.table: Sequence[ShardEntry] = [self.entry(shard) for shard in range(len(self._pairs))]
        self._ends = LruCache[NDArray[np.int64]](4, self._load_ends)

    @cached_property
    def documents(self) -> int:
        """Documents with at least one token, as `ends` has them; reads the indexes."""
        return sum(len(self._load_ends(shard)) for shard in range(len(self._pairs)))

    def path(self, shard: int) -> str:
        """See `ShardSource.path`."""
        return self._pairs[shard].name + ".bin"

    def entry(self, shard: int) -> ShardEntry:
        """See `ShardSource.entry`; checksums are 0, and empty documents count."""
        pair = self._pairs[shard]
        nbytes = self.blob.size(pair.name + ".idx")
        return ShardEntry(
            name=pair.name,
            tokens=pair.tokens,
            documents=pair.documents,
            codec="none",
            block_tokens=self.block_tokens,
            dtype=self.dtype.name,
            data_nbytes=pair.tokens * self.stored_dtype.itemsize,
            data_xxh3=0,
            index_nbytes=nbytes,
            index_xxh3=0,
            docs_nbytes=0,
            docs_xxh3=0,
            content="",
        )

    def index(self, shard: int) -> BlockIndex:
        """See `ShardSource.index`."""
        tokens = self._pairs[shard].tokens
        starts = np.arange(0, tokens, self.block_tokens, dtype=np.int64)
        itemsize = self.stored_dtype.itemsize
        offset = (starts * itemsize).astype(np.uint64)
        nbytes = (np.minimum(self.block_tokens, tokens - starts) * itemsize).astype(np.uint32)
        try:
            ids = np.memmap(self.blob.path(self.path(shard)), self.stored_dtype, "r")
        except OSError as error:
            raise ShardError(
                f"{self.blob.url}/{self.path(shard)}: cannot be read: {error.strerror or error}. Restore it."
            ) from error
        zeros = np.zeros(len(offset), np.uint64)
        return BlockIndex(offset, nbytes, zeros, ids[starts].astype(np.uint32))

    def ends(self, shard: int) -> NDArray[np.int64]:
        """See `ShardSource.ends`."""
        return self._ends.get(shard)

    def spans(self, shard: int) -> None:
        """None: Megatron's files have no learned spans."""

    def fingerprint(self) -> str:
        """32 hex digits: a hash of samples of the indexes and ids, as reading all of them would take too long."""
        digest = hashlib.blake2b(digest_size=16)
        for pair in self._pairs:
            for name in (pair.name + ".idx", pair.name + ".bin"):
                size = self.blob.size(name)
                digest.update(f"{size} ".encode())
                starts = np.linspace(0, max(0, size - _SAMPLE_NBYTES), _SAMPLES).astype(np.int64)
                for start in np.unique(starts).tolist():
                    digest.update(self.blob.get_range(name, start, start + _SAMPLE_NBYTES))
        return digest.hexdigest()

    def _load_ends(self, shard: int) -> NDArray[np.int64]:
        pair = self._pairs[shard]
        where = f"{self.blob.url}/{pair.name}.idx"
        path = self.blob.path(pair.name + ".idx")
        at = HEADER.size
        lengths = np.fromfile(path, "<i4", pair.sequences, offset=at)
        pointers = np.fromfile(path, "<i8", pair.sequences, offset=at + 4 * pair.sequences)
        firsts = np.fromfile(path, "<i8", pair.documents + 1, offset=at + 12 * pair.sequences)
        ends = np.cumsum(lengths, dtype=np.int64)
        if len(lengths) and (int(lengths.min()) < 0 or int(ends[-1]) != pair.tokens):
            raise ShardError(
                f"{where}: lengths sum to {ends[-1]}, the .bin holds {pair.tokens} ids. Another .bin?"
            )
        if (wrong := np.flatnonzero(pointers != (ends - lengths) * self.stored_dtype.itemsize)).size:
            i = int(wrong[0])
            raise ShardError(
                f"{where}: sequence {i} begins at byte {pointers[i]}, expected "
                f"{(ends[i] - lengths[i]) * self.stored_dtype.itemsize}"
                ": the sequences do not follow each other, and a store is one stream. Write the pair again."
            )
        if int(firsts[0]) != 0 or int(firsts[-1]) != pair.sequences or bool((np.diff(firsts) < 0).any()):
            raise ShardError(f"{where}: documents do not cover the {pair.sequences} sequences in order")
        last: NDArray[np.int64] = np.concatenate((np.zeros(1, np.int64), ends))[firsts[1:]]
        return last[np.diff(last, prepend=0) > 0]  # empty documents have no end in the stream


def _read_header(blob: LocalBlob, name: str) -> _Pair:
    where = f"{blob.url}/{name}.idx"
    try:
        size = blob.size(name + ".idx")
    except FileNotFoundError as error:
        raise ManifestError(f"{where}: missing. Copy both files of the pair.") from error
    data = bytes(blob.get_range(name + ".idx", 0, HEADER.size))
    if len(data) < HEADER.size:
        raise ManifestError(f"{where}: {size} bytes, an index has at least {HEADER.size}. Truncated?")
    magic, version, code, sequences, firsts = HEADER.unpack(data)
    if magic != MAGIC or version != 1:
        raise ManifestError(
            f"{where}: begins with {magic!r}, version {version}; expected {MAGIC!r}, version 1"
        )
    if code not in _DTYPES:
        raise ManifestError(
            f"{where}: ids of type {code}; expected an integer type: {', '.join(map(str, sorted(_DTYPES)))}"
        )
    needed = HEADER.size + 12 * sequences + 8 * firsts
    # A byte for each sequence may follow: the modes of multimodal data, which are not used here.
    if firsts < 1 or size not in (needed, needed + sequences):
        raise ManifestError(
            f"{where}: {size} bytes, {sequences} sequences and {firsts - 1} documents take {needed}. Truncated?"
        )
    dtype = _DTYPES[code]
    try:
        nbytes = blob.size(name + ".bin")
    except FileNotFoundError as error:
        raise ShardError(f"{blob.url}/{name}.bin: missing beside its .idx. Copy both files.") from error
    if nbytes % dtype.itemsize or nbytes == 0:
        raise ShardError(
            f"{blob.url}/{name}.bin: {nbytes} bytes, expected a multiple of {dtype.itemsize}. Truncated?"
        )
    last = HEADER.size + 12 * sequences - 8
    (pointer,) = (
        struct.unpack("<q", bytes(blob.get_range(name + ".idx", last, last + 8))) if sequences else (0,)
    )
    at = HEADER.size + 4 * sequences - 4
    (length,) = struct.unpack("<i", bytes(blob.get_range(name + ".idx", at, at + 4))) if sequences else (0,)
    if pointer + length * dtype.itemsize != nbytes:
        raise ShardError(
            f"{blob.url}/{name}.bin: {nbytes} bytes, its index ends at {pointer + length * dtype.itemsize}. "
            "Truncated, or of another index?"
        )
    return _Pair(name, dtype, sequences, firsts - 1, nbytes // dtype.itemsize)


def megatron_manifest(source: MegatronSource, tokenizer: Tokenizer | None) -> Manifest:
    """The manifest of a store that these files would be."""
    fingerprint = "" if tokenizer is None else tokenizer.fingerprint
    return Manifest(
        snapshot=1,
        fingerprint=fingerprint_of(
            bytes.fromhex(source.fingerprint()), tokenizer_fingerprint=fingerprint, dtype=source.dtype.name
        ),
        dtype=source.dtype.name,
        vocab_size=_NUM_IDS[source.stored_dtype.itemsize] if tokenizer is None else tokenizer.vocab_size,
        eos_id=-1 if tokenizer is None else tokenizer.eos_id,
        block_tokens=source.block_tokens,
        tokens=int(source.token_starts[-1]),
        documents=sum(entry.documents for entry in source.table),
        num_shards=len(source.table),
        nbytes=sum(entry.nbytes for entry in source.table),
        table=FileSum(name="", nbytes=0, xxh3_128=""),
        tokenizer_name="" if tokenizer is None else tokenizer.name,
        tokenizer_fingerprint=fingerprint,
        tokenizer_files=(),
    )
