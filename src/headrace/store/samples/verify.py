"""An open store of samples -> every byte of it read and checked, or an error that names the first fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xxhash

from headrace.errors import ManifestError, ShardError
from headrace.store.format import MANIFEST, data_path, index_path, snapshot_path
from headrace.store.samples.block import buffers_of
from headrace.store.samples.columns import Ragged
from headrace.store.samples.features import ClassLabel, Feature, List, Value
from headrace.store.samples.manifest import parse_sample_manifest
from headrace.store.samples.store import SampleStore
from headrace.store.samples.table import SampleShardEntry
from headrace.store.verify import check_file


def verify_samples(
    store: SampleStore, *, progress: Callable[[int, int | None, str], None] | None = None
) -> int:
    """Read and check all files of a store's snapshot; opening it has checked manifest and shard table already.

    Each shard's two files are hashed whole, so that a changed byte that no reader uses is detected as well; then its
    blocks are decoded, and their values compared with the shard table's hash of the content.

    Args:
        store: an open store.
        progress: called with (bytes checked, bytes in all, shard).

    Returns:
        Bytes checked.

    Raises:
        ShardError: names the file, the value read and the value expected.
        ManifestError: the snapshot's own manifest is missing or another.
    """
    name = snapshot_path(store.snapshot)
    where = f"{store.blob.url}/{name}"
    try:
        stored = parse_sample_manifest(store.blob.get(name), where=where)
    except FileNotFoundError as error:
        raise ManifestError(f"{where}: missing. Copy manifest.json to it") from error
    if stored != store.manifest:
        raise ManifestError(f"{where}: another snapshot than {MANIFEST}. Copy manifest.json to it")
    store.tokenizer_files()  # checks them
    done = 0
    for number, entry in enumerate(store.shards):
        for path, nbytes, digest in (
            (data_path(entry.name), entry.data_nbytes, entry.data_xxh3),
            (index_path(entry.name), entry.index_nbytes, entry.index_xxh3),
        ):
            check_file(store.blob, path, nbytes, digest)
            done += nbytes
            if progress is not None:
                progress(done, store.nbytes, entry.name)
        _check_content(store, number, entry)
    return done


def _check_content(store: SampleStore, number: int, entry: SampleShardEntry) -> None:
    digest = xxhash.xxh3_128()
    for columns in store.shard_blocks(number):
        for buffer in buffers_of(columns, store.features)[1]:
            digest.update(len(buffer).to_bytes(8, "little"))
            digest.update(buffer)
        for name, feature in store.features.items():
            fault = _fault(columns[name], feature)
            if fault:
                raise ShardError(f"{store.url}: shard {entry.name}: column {name!r}: {fault}")
    if digest.hexdigest() != entry.content:
        raise ShardError(
            f"{store.url}: shard {entry.name}: its values hash to {digest.hexdigest()}, the shard table says "
            f"{entry.content}. Forged, or written by another program: write the shard again"
        )


def _fault(column: Any, feature: Feature) -> str:
    """What is wrong with a column's values; empty where nothing is."""
    if isinstance(feature, List) and isinstance(column, Ragged):
        return _fault(column.values, feature.feature)
    if isinstance(feature, ClassLabel) and len(column):
        if int(column.min()) < -1 or (feature.names and int(column.max()) >= len(feature.names)):
            return f"classes {column.min()} to {column.max()} of {len(feature.names)}"
    elif isinstance(feature, Value) and feature.dtype == "string":
        for row in range(len(column)):
            try:
                column[row].tobytes().decode()
            except UnicodeDecodeError as error:
                return f"row {row} is not UTF-8: {error}"
    return ""
