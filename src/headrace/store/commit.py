"""Shards' entries -> a snapshot of the store: shard table, tokenizer, and last of all the manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError, ManifestError
from headrace.storage import Blob, open_blob, read_verified
from headrace.store.format import MANIFEST, ShardEntry, is_name, snapshot_path, token_dtype, tokenizer_path
from headrace.store.manifest import FileSum, Manifest, fingerprint_of, parse_manifest
from headrace.store.table import ShardTable, encode_table
from headrace.types import Bytes

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer


def commit_store(
    store_url: str | os.PathLike[str] | Blob,
    entries: Sequence[ShardEntry],
    *,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any] | str | type | None = None,
    block_tokens: int | None = None,
    append: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> int:
    """Make written shards a store, or the next snapshot of one.

    Atomic: until the manifest is in place, readers see the state before. Committing the same again changes
    nothing and returns the same snapshot. Older snapshots can still be opened.

    Args:
        store_url: the store's path or URL, or an open blob.
        entries: what `write_shard` returned, in the order of the stream.
        tokenizer: gives vocab_size and eos_id; its files are stored in the store.
        dtype: uint16 or uint32; by default the smallest that holds the vocabulary.
        block_tokens: as given to `write_shard`; by default the entries'.
        append: add the shards to the current snapshot, instead of replacing it.
        extra: JSON values to store in the manifest.

    Returns:
        The snapshot's number, 1 for a new store.

    Raises:
        ConfigError: entries that do not fit together, or a tokenizer that differs from the store's.
        ManifestError: append without a store, or another snapshot was committed at the same time.
        SpaceError: the device is full; the store is unchanged.
    """
    blob = open_blob(store_url) if isinstance(store_url, str | os.PathLike) else store_url
    token_type = np.dtype(dtype) if dtype is not None else token_dtype(tokenizer.vocab_size)
    where = blob.url
    current = current_manifest(blob)
    before: list[ShardEntry] = []
    if append:
        before = _shards_to_append_to(blob, current, tokenizer)
        if entries and before[-len(entries) :] == list(entries):
            assert current is not None
            return current.snapshot  # the command was run again after it had succeeded
    everything = [*before, *entries]
    if not everything:
        raise ConfigError(f"{where}: no shards; a store needs at least one")
    size = everything[0].block_tokens if block_tokens is None else block_tokens
    _check_entries(everything, token_type, size, where=where)

    table = encode_table(everything)
    files = _tokenizer_files(tokenizer, where=where)
    manifest = Manifest(
        snapshot=1 if current is None else current.snapshot + 1,
        fingerprint=fingerprint_of(
            b"".join(bytes.fromhex(entry.content) for entry in everything),
            tokenizer_fingerprint=tokenizer.fingerprint,
            dtype=token_type.name,
        ),
        dtype=token_type.name,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        block_tokens=size,
        tokens=sum(entry.tokens for entry in everything),
        documents=sum(entry.documents for entry in everything),
        num_shards=len(everything),
        nbytes=sum(entry.nbytes for entry in everything),
        table=table_sum(table),
        tokenizer_name=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_files=tuple(FileSum.of(name, data) for name, data in files.items()),
        extra=json_values(extra or {}, where=where),
        has_spans=any(entry.has_spans for entry in everything),
    )
    if current is not None and manifest == replace(current, snapshot=manifest.snapshot):
        return current.snapshot
    _write_snapshot(blob, manifest, table, files)
    return manifest.snapshot


def _tokenizer_files(tokenizer: Tokenizer, *, where: str) -> dict[str, bytes]:
    files = dict(sorted(tokenizer.files().items()))
    for name in files:
        if not is_name(name):
            raise ConfigError(
                f"{where}: tokenizer file name {name!r}: expected letters, digits, '.', '_', '-'"
            )
    return files


def _shards_to_append_to(blob: Blob, current: Manifest | None, tokenizer: Tokenizer) -> list[ShardEntry]:
    """The shards of the current snapshot, to which new ones are appended."""
    if current is None:
        raise ManifestError(f"{blob.url}: no store to append to; commit the first shards without append")
    if current.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{blob.url}: its tokenizer is {current.tokenizer_name} ({current.tokenizer_fingerprint}), the new "
            f"shards' is {tokenizer.name} ({tokenizer.fingerprint}). Ingest into a new store."
        )
    return list(read_table(blob, current))


def table_sum(table: bytes) -> FileSum:
    """Name, length and checksum of a shard table, which is named by its checksum."""
    unnamed = FileSum.of("table", table)
    return replace(unnamed, name=f"shards-{unnamed.xxh3_128}.arrow")


def _write_snapshot(blob: Blob, manifest: Manifest, table: bytes, files: Mapping[str, bytes]) -> None:
    """Write a snapshot's files; the manifest is the last one."""
    blob.put(manifest.table.name, table)
    for name, data in files.items():
        blob.put(tokenizer_path(name), data)
    publish_manifest(blob, manifest.to_bytes(), snapshot=manifest.snapshot)


def publish_manifest(blob: Blob, data: bytes, *, snapshot: int) -> None:
    """Make a manifest the newest one, after all files that it names.

    Raises:
        ManifestError: another writer committed a snapshot of this number.
    """
    path = snapshot_path(snapshot)
    # Create-if-absent decides between two commits at once; a commit that was killed after it reads its own file.
    if not blob.put_if_absent(path, data) and bytes(blob.get(path)) != data:
        raise ManifestError(
            f"{blob.url}/{path}: exists with other contents, so another writer committed snapshot "
            f"{snapshot}, or was killed while doing so. Run that command again to finish it, or delete the "
            "file to discard it."
        )
    blob.put(MANIFEST, data)


def has_manifest(blob: Blob) -> bool:
    """Whether there is a complete store, of either kind."""
    try:
        blob.size(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def current_manifest(blob: Blob, snapshot: int | None = None) -> Manifest | None:
    """The store's manifest (of one snapshot); None where there is none."""
    name = MANIFEST if snapshot is None else snapshot_path(snapshot)
    try:
        return read_verified(
            blob, lambda: parse_manifest(blob.get(name), where=f"{blob.url}/{name}"), ManifestError
        )
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_table(blob: Blob, manifest: Manifest) -> ShardTable:
    """The manifest's shard table, checked against it.

    Raises:
        ManifestError: missing, damaged, or with other totals.
    """
    where = f"{blob.url}/{manifest.table.name}"

    def read() -> Bytes:
        data = blob.get_range(manifest.table.name, 0, manifest.table.nbytes + 1)
        manifest.table.check(data, where=blob.url)
        return data

    try:
        data = read_verified(blob, read, ManifestError)
    except FileNotFoundError as error:
        raise ManifestError(
            f"{where}: missing, and the manifest names it. Restore it, or ingest again."
        ) from error
    table = ShardTable(
        data,
        block_tokens=manifest.block_tokens,
        dtype=manifest.dtype,
        where=where,
        has_spans=manifest.has_spans,
    )
    actual = (len(table), int(table.token_starts[-1]), table.total("documents"))
    expected = (manifest.num_shards, manifest.tokens, manifest.documents)
    if actual != expected:
        raise ManifestError(
            f"{where}: (shards, tokens, documents) sum to {actual}, the manifest says {expected}"
        )
    return table


def _check_entries(
    entries: Sequence[ShardEntry], dtype: np.dtype[Any], block_tokens: int, *, where: str
) -> None:
    if not entries:
        raise ConfigError(f"{where}: no shards; a store needs at least one")
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise ConfigError(f"{where}: shard {entry.name} is named twice; append shards under new names")
        seen.add(entry.name)
        if (entry.dtype, entry.block_tokens) != (dtype.name, block_tokens):
            raise ConfigError(
                f"{where}: shard {entry.name} has {entry.dtype} in blocks of {entry.block_tokens}; the store has "
                f"{dtype.name} in blocks of {block_tokens}"
            )


def json_values(extra: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The values as JSON reads them back. Raises: ConfigError."""
    try:
        return dict(json.loads(json.dumps(dict(extra), sort_keys=True)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: extra has a value that JSON does not have: {error}") from error


def read_tokenizer_files(blob: Blob, manifest: Manifest) -> dict[str, bytes]:
    """Names and contents of the tokenizer's files, checked.

    Raises:
        ManifestError: missing or damaged.
    """
    files = {}
    for file in manifest.tokenizer_files:
        path = tokenizer_path(file.name)
        try:
            data = bytes(blob.get_range(path, 0, file.nbytes + 1))
        except FileNotFoundError as error:
            raise ManifestError(f"{blob.url}/{path}: missing, and the manifest names it") from error
        file.check(data, where=f"{blob.url}/tokenizer")
        files[file.name] = data
    return files
