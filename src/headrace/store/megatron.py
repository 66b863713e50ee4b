r"""Megatron's .bin and .idx files <-> a store: read in place, and written from one.

    .idx    "MMIDIDX\0\0", uint64 version = 1, uint8 type, uint64 sequences, uint64 documents + 1,
            int32 length of each sequence, int64 first byte of each sequence in .bin,
            int64 first sequence of each document and, last, the number of sequences; little-endian
    .bin    the sequences' ids, one after the other: uint16 (type 8) or int32 (type 4)

They carry no checksums and no tokenizer: what a store of ours promises about damage does not hold for them.

Source: megatron.core.datasets.indexed_dataset, class _IndexWriter.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, ManifestError, ShardError
from headrace.storage import LocalBlob, disk_errors, fsync_directory
from headrace.store.format import BLOCK_TOKENS, ShardEntry
from headrace.store.index import BlockIndex
from headrace.store.manifest import FileSum, Manifest, fingerprint_of
from headrace.store.recent import Recent

if TYPE_CHECKING:
    from headrace.store.read import Store
    from headrace.tokens import Tokenizer

_MAGIC: Final = b"MMIDIDX\x00\x00"
_HEADER: Final = struct.Struct("<9sQBQQ")
_DTYPES: Final[dict[int, np.dtype[Any]]] = {8: np.dtype("<u2"), 4: np.dtype("<u4")}
"""int32 ids are read as uint32: ids are never negative, and `verify` says where one is."""
_CHUNK_TOKENS: Final = 4 << 20
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
    """A path -> the directory and names of the Megatron pairs it means; None if it means none.

    It may be a .bin, an .idx, their common prefix, or a directory of pairs that is no store of ours.
    """
    path = Path(os.fspath(url).removeprefix("file://"))
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if prefix.with_name(prefix.name + ".idx").is_file():
        return prefix.parent, [prefix.name]
    if path.is_dir() and not (path / "manifest.json").exists():
        names = sorted(file.name.removesuffix(".idx") for file in path.glob("*.idx"))
        return (path, names) if names else None
    return None


class MegatronSource:
    """Pairs of one directory, one shard each, in the order of their names; see `source.Source`."""

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
            raise ManifestError(f"{blob.url}: some .bin hold uint16 and some int32 ids; open them one by one")
        self.dtype = types.pop()
        counts = np.array([pair.tokens for pair in self._pairs], np.int64)
        self.token_starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self.block_tokens = BLOCK_TOKENS
        self.block_starts = np.concatenate(([0], np.cumsum(-(-counts // BLOCK_TOKENS)))).astype(np.int64)
        self.codecs = np.zeros(len(counts), np.uint8)
        self.data_nbytes: NDArray[Any] = counts * self.dtype.itemsize
        self.checked = False
        self.documents = sum(pair.documents for pair in self._pairs)
        self.table: Sequence[ShardEntry] = [self.entry(shard) for shard in range(len(self._pairs))]
        self._ends = Recent[NDArray[np.int64]](4, self._load_ends)

    def path(self, shard: int) -> str:
        """See `Source.path`."""
        return self._pairs[shard].name + ".bin"

    def entry(self, shard: int) -> ShardEntry:
        """See `Source.entry`; checksums are 0, as there are none."""
        pair = self._pairs[shard]
        nbytes = self.blob.size(pair.name + ".idx")
        return ShardEntry(
            name=pair.name,
            tokens=pair.tokens,
            documents=pair.documents,
            codec="none",
            block_tokens=self.block_tokens,
            dtype=self.dtype.name,
            data_nbytes=pair.tokens * self.dtype.itemsize,
            data_xxh3=0,
            index_nbytes=nbytes,
            index_xxh3=0,
            docs_nbytes=0,
            docs_xxh3=0,
            content="",
        )

    def index(self, shard: int) -> BlockIndex:
        """See `Source.index`."""
        tokens = self._pairs[shard].tokens
        starts = np.arange(0, tokens, self.block_tokens, dtype=np.int64)
        offset = (starts * self.dtype.itemsize).astype(np.uint64)
        nbytes = (np.minimum(self.block_tokens, tokens - starts) * self.dtype.itemsize).astype(np.uint32)
        ids = np.memmap(self.blob.path(self.path(shard)), self.dtype, "r")
        zeros = np.zeros(len(offset), np.uint64)
        return BlockIndex(offset, nbytes, zeros, ids[starts].astype(np.uint32))

    def ends(self, shard: int) -> NDArray[np.int64]:
        """See `Source.ends`."""
        return self._ends.get(shard)

    def fingerprint(self) -> str:
        """32 hex digits of the indexes and of samples of the ids: to read all of them would take too long."""
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
        at = _HEADER.size
        lengths = np.fromfile(path, "<i4", pair.sequences, offset=at)
        pointers = np.fromfile(path, "<i8", pair.sequences, offset=at + 4 * pair.sequences)
        firsts = np.fromfile(path, "<i8", pair.documents + 1, offset=at + 12 * pair.sequences)
        ends = np.cumsum(lengths, dtype=np.int64)
        if len(lengths) and (int(lengths.min()) < 0 or int(ends[-1]) != pair.tokens):
            raise ShardError(
                f"{where}: lengths sum to {ends[-1]}, the .bin holds {pair.tokens} ids. Another .bin?"
            )
        if (wrong := np.flatnonzero(pointers != (ends - lengths) * self.dtype.itemsize)).size:
            i = int(wrong[0])
            raise ShardError(
                f"{where}: sequence {i} begins at byte {pointers[i]}, wanted "
                f"{(ends[i] - lengths[i]) * self.dtype.itemsize}"
                ": the sequences do not follow each other, and a store is one stream. Write the pair again."
            )
        if int(firsts[0]) != 0 or int(firsts[-1]) != pair.sequences or bool((np.diff(firsts) < 0).any()):
            raise ShardError(f"{where}: documents do not cover the {pair.sequences} sequences in order")
        last: NDArray[np.int64] = np.concatenate((np.zeros(1, np.int64), ends))[firsts[1:]]
        return last[np.diff(last, prepend=0) > 0]  # documents without a token have no end in the stream


def _read_header(blob: LocalBlob, name: str) -> _Pair:
    where = f"{blob.url}/{name}.idx"
    size = blob.size(name + ".idx")
    data = bytes(blob.get_range(name + ".idx", 0, _HEADER.size))
    if len(data) < _HEADER.size:
        raise ManifestError(f"{where}: {size} bytes, an index has at least {_HEADER.size}. Truncated?")
    magic, version, code, sequences, firsts = _HEADER.unpack(data)
    if magic != _MAGIC or version != 1:
        raise ManifestError(
            f"{where}: begins with {magic!r}, version {version}; wanted {_MAGIC!r}, version 1"
        )
    if code not in _DTYPES:
        raise ManifestError(f"{where}: ids of type {code}; wanted 8 (uint16) or 4 (int32)")
    needed = _HEADER.size + 12 * sequences + 8 * firsts
    # A byte for each sequence may follow: the modes of multimodal data, which a stream of tokens has no use for.
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
            f"{blob.url}/{name}.bin: {nbytes} bytes, wanted a multiple of {dtype.itemsize}. Truncated?"
        )
    last = _HEADER.size + 12 * sequences - 8
    (pointer,) = (
        struct.unpack("<q", bytes(blob.get_range(name + ".idx", last, last + 8))) if sequences else (0,)
    )
    at = _HEADER.size + 4 * sequences - 4
    (length,) = struct.unpack("<i", bytes(blob.get_range(name + ".idx", at, at + 4))) if sequences else (0,)
    if pointer + length * dtype.itemsize != nbytes:
        raise ShardError(
            f"{blob.url}/{name}.bin: {nbytes} bytes, its index ends at {pointer + length * dtype.itemsize}. "
            "Truncated, or of another index?"
        )
    return _Pair(name, dtype, sequences, firsts - 1, nbytes // dtype.itemsize)


def export_megatron(
    store: Store,
    prefix: str | os.PathLike[str],
    *,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> tuple[Path, Path]:
    """Write a store as PREFIX.bin and PREFIX.idx, one sequence a document; memory does not grow with it.

    Args:
        store: an open store.
        prefix: local path without suffix; existing files are replaced, the .idx last.
        progress: called with (tokens written, tokens in all, note).

    Returns:
        The paths of .bin and .idx.

    Raises:
        ConfigError: ids or a document do not fit Megatron's types.
        SpaceError: the device is full.
    """
    folder, name = Path(prefix).parent, Path(prefix).name
    code, dtype = (8, np.dtype("<u2")) if store.dtype == np.uint16 else (4, np.dtype("<i4"))
    if code == 4 and store.vocab_size > 1 << 31:
        raise ConfigError(
            f"{store.url}: ids up to {store.vocab_size - 1}, Megatron's int32 holds up to 2**31 - 1"
        )
    bin_path, idx_path = folder / f"{name}.bin", folder / f"{name}.idx"
    with disk_errors(bin_path):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.bin.tmp"
        with temporary.open("wb") as file:
            for start in range(0, store.num_tokens, _CHUNK_TOKENS):
                stop = min(start + _CHUNK_TOKENS, store.num_tokens)
                file.write(store.read(start, stop).astype(dtype, copy=False).tobytes())
                if progress is not None:
                    progress(stop, store.num_tokens, bin_path.name)
            file.flush()
            os.fsync(file.fileno())
        index = folder / f".{name}.idx.tmp"
        _write_index(store, index, code, dtype.itemsize)
        temporary.replace(bin_path)
        index.replace(idx_path)
        fsync_directory(folder)
    return bin_path, idx_path


def _write_index(store: Store, path: Path, code: int, itemsize: int) -> None:
    shards = [(int(low), int(high)) for low, high in pairwise(store.token_starts)]
    documents = sum(len(store.document_ends(low, high)) for low, high in shards)
    # What follows the last end is a document too.
    documents += 1 - len(store.document_ends(store.num_tokens - 1, store.num_tokens))
    with path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, 1, code, documents, documents + 1))
        start, done = 0, 0
        for low, high in [*shards, (store.num_tokens, store.num_tokens)]:
            ends = store.document_ends(low, high)
            if low == high and done < documents:
                ends = np.array([high])
            lengths = np.diff(ends, prepend=start)
            if len(lengths) and int(lengths.max()) >= 1 << 31:
                raise ConfigError(
                    f"{store.url}: a document of {lengths.max()} tokens, Megatron holds up to 2**31 - 1"
                )
            file.seek(_HEADER.size + 4 * done)
            file.write(lengths.astype("<i4").tobytes())
            file.seek(_HEADER.size + 4 * documents + 8 * done)
            file.write(((ends - lengths) * itemsize).astype("<i8").tobytes())
            start, done = (int(ends[-1]) if len(ends) else start), done + len(ends)
        file.seek(_HEADER.size + 12 * documents)
        for low in range(0, documents + 1, _CHUNK_TOKENS):
            file.write(np.arange(low, min(low + _CHUNK_TOKENS, documents + 1), dtype="<i8").tobytes())
        file.flush()
        os.fsync(file.fileno())


def megatron_manifest(source: MegatronSource, tokenizer: Tokenizer | None) -> Manifest:
    """What Megatron files say of themselves, in a manifest's words."""
    fingerprint = "" if tokenizer is None else tokenizer.fingerprint
    return Manifest(
        snapshot=1,
        fingerprint=fingerprint_of(
            bytes.fromhex(source.fingerprint()), tokenizer_fingerprint=fingerprint, dtype=source.dtype.name
        ),
        dtype=source.dtype.name,
        vocab_size=(1 << 16 if source.dtype.itemsize == 2 else 1 << 31)
        if tokenizer is None
        else tokenizer.vocab_size,
        eos_id=-1 if tokenizer is None else tokenizer.eos_id,
        block_tokens=source.block_tokens,
        tokens=int(source.token_starts[-1]),
        documents=source.documents,
        num_shards=len(source.table),
        nbytes=sum(entry.nbytes for entry in source.table),
        table=FileSum(name="", nbytes=0, xxh3_128=""),
        tokenizer_name="" if tokenizer is None else tokenizer.name,
        tokenizer_fingerprint=fingerprint,
        tokenizer_files=(),
    )
