"""Shards' entries -> a snapshot of a store of samples: shard table, and last of all the manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigError, ManifestError
from headrace.storage import Blob, open_blob, read_verified
from headrace.store.commit import json_values, publish_manifest, table_sum
from headrace.store.format import MANIFEST, snapshot_path
from headrace.store.samples.features import Features, check_features
from headrace.store.samples.manifest import SampleManifest, parse_sample_manifest, samples_fingerprint
from headrace.store.samples.table import SampleShardEntry, SampleTable, encode_table
from headrace.store.samples.tokenizer import KEY as TOKENIZER
from headrace.store.samples.tokenizer import write_tokenizer
from headrace.types import Bytes

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer


def commit_samples(
    store_url: str | os.PathLike[str] | Blob,
    entries: Sequence[SampleShardEntry],
    *,
    features: Features,
    append: bool = False,
    extra: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> int:
    """Make written shards a store of samples, or the next snapshot of one.

    Atomic: until the manifest is in place, readers see the state before. Committing the same again changes nothing and
    returns the same snapshot. Older snapshots can still be opened.

    Args:
        store_url: the store's path or URL, or an open blob.
        entries: what `write_sample_shard` returned, in the order of the rows.
        features: of all shards.
        append: add the shards to the current snapshot, instead of replacing it.
        extra: JSON values to store in the manifest.
        tokenizer: of the columns of tokens; its files are stored in the store.

    Returns:
        The snapshot's number, 1 for a new store.

    Raises:
        ConfigError: no shards, names that repeat, or columns or a tokenizer that differ from the store's.
        ManifestError: append without a store, or another snapshot was committed at the same time.
        SpaceError: the device is full; the store is unchanged.
    """
    blob = open_blob(store_url) if isinstance(store_url, str | os.PathLike) else store_url
    features = check_features(features)
    current = current_samples(blob)
    before: list[SampleShardEntry] = []
    if append:
        if current is None:
            raise ManifestError(f"{blob.url}: no store to append to; commit the first shards without append")
        if list(current.features.items()) != list(features.items()):
            raise ConfigError(
                f"{blob.url}: its columns are {dict(current.features)}, the new shards have {features}. Write "
                "a new store"
            )
        _check_tokenizer(blob, current, tokenizer)
        before = list(read_sample_table(blob, current))
        if entries and before[-len(entries) :] == list(entries):
            return current.snapshot  # the command was run again after it had succeeded
    everything = [*before, *entries]
    if not everything:
        raise ConfigError(f"{blob.url}: no shards; a store needs at least one")
    names = [entry.name for entry in everything]
    if len(set(names)) != len(names):
        raise ConfigError(f"{blob.url}: two shards have one name; append shards under new names")
    table = encode_table(everything)
    if tokenizer is not None:
        extra = {**(extra or {}), TOKENIZER: write_tokenizer(blob, tokenizer)}
    manifest = SampleManifest(
        snapshot=1 if current is None else current.snapshot + 1,
        fingerprint=samples_fingerprint(
            features, b"".join(bytes.fromhex(entry.content) for entry in everything)
        ),
        features=features,
        rows=sum(entry.rows for entry in everything),
        num_shards=len(everything),
        nbytes=sum(entry.nbytes for entry in everything),
        table=table_sum(table),
        extra=json_values(extra or {}, where=blob.url),
    )
    if current is not None and manifest == replace(current, snapshot=manifest.snapshot):
        return current.snapshot
    blob.put(manifest.table.name, table)
    publish_manifest(blob, manifest.to_bytes(), snapshot=manifest.snapshot)
    return manifest.snapshot


def _check_tokenizer(blob: Blob, current: SampleManifest, tokenizer: Tokenizer | None) -> None:
    """Refuse to append rows of another tokenizer than the store's."""
    about = current.extra.get(TOKENIZER)
    before = None if about is None else (about["name"], about["fingerprint"])
    new = None if tokenizer is None else (tokenizer.name, tokenizer.fingerprint)
    if (before and before[1]) != (new and new[1]):
        raise ConfigError(
            f"{blob.url}: its tokenizer is {before and before[0]}, the new shards' is {new and new[0]}, with other "
            "ids. Write a new store"
        )


def current_samples(blob: Blob, snapshot: int | None = None) -> SampleManifest | None:
    """The manifest of a store of samples (of one snapshot); None where there is none.

    Raises:
        ManifestError: damaged, or of a store of tokens.
    """
    name = MANIFEST if snapshot is None else snapshot_path(snapshot)
    try:
        return read_verified(
            blob, lambda: parse_sample_manifest(blob.get(name), where=f"{blob.url}/{name}"), ManifestError
        )
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_sample_store(url: str | os.PathLike[str]) -> bool:
    """Whether there is a complete store of samples; not where its manifest is damaged."""
    try:
        return current_samples(open_blob(url, name="store")) is not None
    except ManifestError:
        return False


def read_sample_table(blob: Blob, manifest: SampleManifest) -> SampleTable:
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
    table = SampleTable(data, where=where)
    actual, expected = (len(table), int(table.row_starts[-1])), (manifest.num_shards, manifest.rows)
    if actual != expected:
        raise ManifestError(f"{where}: (shards, rows) sum to {actual}, the manifest says {expected}")
    return table
