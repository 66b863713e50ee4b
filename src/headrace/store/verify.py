"""An open store -> every byte of it read and checked, or an error that names the first fault."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xxhash

from headrace.errors import ManifestError, ShardError
from headrace.storage import Blob
from headrace.store.format import (
    MANIFEST,
    ShardEntry,
    data_path,
    docs_path,
    index_path,
    snapshot_path,
    spans_path,
)
from headrace.store.manifest import parse_manifest
from headrace.store.store import Store

_CHUNK_BYTES = 8 << 20
_CHUNK_TOKENS = 4 << 20


def verify_store(store: Store, *, progress: Callable[[int, int | None, str], None] | None = None) -> int:
    """Read and check all files of a store's snapshot; opening it has checked manifest and shard table already.

    Each shard's files are hashed whole, so that a changed byte that no reader uses is detected as well; then
    its blocks are decoded, and its ids and document ends compared with the shard table.

    Args:
        store: an open store.
        progress: called with (bytes checked, bytes in all, shard).

    Returns:
        Bytes checked.

    Raises:
        ShardError: names the file, the value read and the value expected.
        ManifestError: the tokenizer's files are missing or damaged.
    """
    blob = store.blob
    store.tokenizer_files()
    if store.has_checksums:
        _check_snapshot_manifest(store, blob)
    done = 0
    starts = store.token_starts
    for number, entry in enumerate(store.shards):
        for path, nbytes, digest in _files(entry) if store.has_checksums else ():
            check_file(blob, path, nbytes, digest)
            done += nbytes
            if progress is not None:
                progress(done, store.nbytes, entry.name)
        _check_tokens(store, entry, int(starts[number]), int(starts[number + 1]))
        if not store.has_checksums:
            done += entry.data_nbytes
            if progress is not None:
                progress(done, store.nbytes, entry.name)
    return done


def _check_snapshot_manifest(store: Store, blob: Blob) -> None:
    """Check the snapshot's own manifest, which `Store.open(snapshot=...)` reads once another is the newest."""
    name = snapshot_path(store.snapshot)
    try:
        stored = parse_manifest(blob.get(name), where=f"{blob.url}/{name}")
    except FileNotFoundError as error:
        raise ManifestError(f"{blob.url}/{name}: missing. Copy manifest.json to it") from error
    if stored != store.manifest:
        raise ManifestError(f"{blob.url}/{name}: another snapshot than {MANIFEST}. Copy manifest.json to it")


def _files(entry: ShardEntry) -> list[tuple[str, int, int]]:
    files = [
        (data_path(entry.name), entry.data_nbytes, entry.data_xxh3),
        (index_path(entry.name), entry.index_nbytes, entry.index_xxh3),
        (docs_path(entry.name), entry.docs_nbytes, entry.docs_xxh3),
    ]
    if entry.has_spans:
        files.append((spans_path(entry.name), entry.spans_nbytes, entry.spans_xxh3))
    return files


def check_file(blob: Blob, path: str, nbytes: int, expected: int) -> None:
    """Read a whole file and compare its length and XXH3-64. Raises: ShardError."""
    where = f"{blob.url}/{path}"
    digest = xxhash.xxh3_64()
    at = 0
    try:
        # One byte more than declared: a file that is too long is damaged as well.
        while chunk := blob.get_range(path, at, min(at + _CHUNK_BYTES, nbytes + 1)):
            digest.update(chunk)
            at += len(chunk)
            if at > nbytes:
                break
    except FileNotFoundError as error:
        raise ShardError(f"{where}: missing, and the shard table names it. Copy the store again") from error
    if at != nbytes:
        actual = f"more than {nbytes}" if at > nbytes else str(at)
        raise ShardError(f"{where}: {actual} bytes, the shard table says {nbytes}. Copy the store again")
    if digest.intdigest() != expected:
        raise ShardError(
            f"{where}: xxh3 0x{digest.intdigest():016x}, the shard table says 0x{expected:016x}. "
            "Damaged on disk or in a copy? Copy the shard again, or ingest again"
        )


def _check_tokens(store: Store, entry: ShardEntry, start: int, stop: int) -> None:
    ends = store.document_ends(start, stop)
    if entry.has_spans:
        store.learned([start], 1)  # reads the shard's spans, and checks them
    if store.has_checksums and len(ends) != entry.documents:
        raise ShardError(
            f"{store.url}: shard {entry.name}: {len(ends)} document ends, the shard table says {entry.documents}"
        )
    eos_count = 0
    closed = store.has_checksums  # Megatron's documents need not end with an end-of-document id
    for at in range(start, stop, _CHUNK_TOKENS):
        tokens = store.read(at, min(at + _CHUNK_TOKENS, stop))
        eos_count += int(np.count_nonzero(tokens == store.eos_id))
        if int(tokens.max()) >= store.vocab_size:
            raise ShardError(
                f"{store.url}: shard {entry.name}: id {int(tokens.max())}, the vocabulary has {store.vocab_size}"
            )
        if not closed:
            continue
        inside = ends[(ends > at) & (ends <= at + len(tokens))] - at - 1
        if not (tokens[inside] == store.eos_id).all():
            raise ShardError(
                f"{store.url}: shard {entry.name}: a document ends without the end-of-document id"
            )
    if closed and eos_count != entry.documents and not entry.has_spans:
        raise ShardError(
            f"{store.url}: shard {entry.name}: {eos_count} end-of-document ids, the shard table says {entry.documents}"
        )
