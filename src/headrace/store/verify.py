"""An open store -> every byte of it read and checked, or the first fault by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from headrace.errors import ManifestError, ShardError
from headrace.storage import Blob, open_blob
from headrace.store.format import MANIFEST, ShardEntry, data_path, docs_path, index_path, snapshot_path
from headrace.store.manifest import parse_manifest

if TYPE_CHECKING:
    from headrace.store.read import Store

_CHUNK_BYTES = 8 << 20
_CHUNK_TOKENS = 4 << 20


def verify(store: Store, *, progress: Callable[[int, int | None, str], None] | None = None) -> int:
    """Read all files of a store's snapshot; opening it has checked manifest and shard table already.

    Each shard's three files are hashed whole, so that a flip in a byte that no reader looks at is found as
    well; then its blocks are decoded and its ids and document ends compared with what is declared.

    Args:
        store: an open store.
        progress: called with (bytes checked, bytes in all, shard).

    Returns:
        Bytes checked.

    Raises:
        ShardError: names the file, what was got and what was wanted.
        ManifestError: the tokenizer's files are missing or damaged.
    """
    blob = open_blob(store.url)
    store.tokenizer_files()
    if store.checked:
        _check_kept_manifest(store, blob)
    done = 0
    starts = store.token_starts
    for number, entry in enumerate(store.shards):
        for path, nbytes, digest in _files(entry) if store.checked else ():
            _check_file(blob, path, nbytes, digest)
            done += nbytes
            if progress is not None:
                progress(done, store.nbytes, entry.name)
        _check_tokens(store, entry, int(starts[number]), int(starts[number + 1]))
        if not store.checked:
            done += entry.data_nbytes
            if progress is not None:
                progress(done, store.nbytes, entry.name)
    return done


def _check_kept_manifest(store: Store, blob: Blob) -> None:
    """The snapshot's own manifest, which `Store.open(snapshot=...)` will read once another is the newest."""
    name = snapshot_path(store.snapshot)
    try:
        kept = parse_manifest(blob.get(name), where=f"{blob.url}/{name}")
    except FileNotFoundError as error:
        raise ManifestError(f"{blob.url}/{name}: missing. Copy manifest.json to it") from error
    if kept != store.manifest:
        raise ManifestError(f"{blob.url}/{name}: another snapshot than {MANIFEST}. Copy manifest.json to it")


def _files(entry: ShardEntry) -> list[tuple[str, int, int]]:
    return [
        (data_path(entry.name), entry.data_nbytes, entry.data_xxh3),
        (index_path(entry.name), entry.index_nbytes, entry.index_xxh3),
        (docs_path(entry.name), entry.docs_nbytes, entry.docs_xxh3),
    ]


def _check_file(blob: Blob, path: str, nbytes: int, wanted: int) -> None:
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
        got = f"more than {nbytes}" if at > nbytes else str(at)
        raise ShardError(f"{where}: {got} bytes, the shard table says {nbytes}. Copy the store again")
    if digest.intdigest() != wanted:
        raise ShardError(
            f"{where}: xxh3 0x{digest.intdigest():016x}, the shard table says 0x{wanted:016x}. "
            "Damaged on disk or in a copy? Copy the shard again, or ingest again"
        )


def _check_tokens(store: Store, entry: ShardEntry, start: int, stop: int) -> None:
    ends = store.document_ends(start, stop)
    if store.checked and len(ends) != entry.documents:
        raise ShardError(
            f"{store.url}: shard {entry.name}: {len(ends)} document ends, the shard table says {entry.documents}"
        )
    found = 0
    closed = store.checked  # Megatron's documents need not end with an end-of-document id
    for at in range(start, stop, _CHUNK_TOKENS):
        tokens = store.read(at, min(at + _CHUNK_TOKENS, stop))
        found += int(np.count_nonzero(tokens == store.eos_id))
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
    if closed and found != entry.documents:
        raise ShardError(
            f"{store.url}: shard {entry.name}: {found} end-of-document ids, the shard table says {entry.documents}"
        )
