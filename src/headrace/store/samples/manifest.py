"""A manifest's bytes <-> the columns, totals and shard table of a store of samples."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.errors import ConfigError, ManifestError
from headrace.store.format import FORMAT, SAMPLES_VERSION
from headrace.store.manifest import FileSum, file_sum_of, open_manifest, seal_manifest
from headrace.store.samples.features import Feature, Features, features_from_json, features_to_json
from headrace.types import Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleManifest:
    """A store of samples at one snapshot."""

    snapshot: int
    """1 for a new store; each commit adds one."""
    fingerprint: str
    """32 hex digits: a hash of the columns' names, types and values; the same for every codec."""
    features: Mapping[str, Feature]
    rows: int
    num_shards: int
    nbytes: int
    """Stored bytes of all shards' files."""
    table: FileSum
    extra: Mapping[str, Any] = field(default_factory=dict)
    """JSON values of the writer, such as its sources."""

    def to_bytes(self) -> bytes:
        """The file's bytes; the same for the same values."""
        value = {"format": FORMAT, "format_version": SAMPLES_VERSION, "kind": "samples", **asdict(self)}
        value["features"] = features_to_json(self.features)
        value["extra"] = dict(sorted(self.extra.items()))
        return seal_manifest(value)


def samples_fingerprint(features: Features, contents: bytes) -> str:
    """32 hex digits: a hash of the columns' names and types, and of all shards' contents (16 bytes each, in order)."""
    digest = hashlib.blake2b(digest_size=16)
    names = json.dumps(features_to_json(features), ensure_ascii=True, separators=(",", ":")).encode()
    for part in (names, contents):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def parse_sample_manifest(data: Bytes, *, where: str) -> SampleManifest:
    """Read a manifest's values and check every byte.

    Raises:
        ManifestError: truncated, changed, of another format, version or kind, or with values out of range.
    """
    value = open_manifest(data, where=where, kind="samples")
    try:
        return _manifest(value)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ManifestError(f"{where}: {error!r}. Forged, or written by another program.") from error


def _manifest(value: dict[str, Any]) -> SampleManifest:
    def number(name: str, low: int, high: int) -> int:
        got = value[name]
        if not isinstance(got, int) or isinstance(got, bool) or not low <= got <= high:
            raise ValueError(f"{name} is {got!r}, expected {low} to {high}")
        return got

    if value["format_version"] != SAMPLES_VERSION or value["kind"] != "samples":
        raise ValueError(f"format_version is {value['format_version']!r} of {value['kind']!r}")
    if not re.fullmatch("[0-9a-f]{32}", value["fingerprint"]):
        raise ValueError(f"fingerprint is {value['fingerprint']!r}, expected 32 hex digits")
    table = file_sum_of(value["table"])
    if table.name != f"shards-{table.xxh3_128}.arrow":
        raise ValueError(f"shard table named {table.name!r}, expected shards-{table.xxh3_128}.arrow")
    return SampleManifest(
        snapshot=number("snapshot", 1, 10**8 - 1),
        fingerprint=value["fingerprint"],
        features=features_from_json(value["features"]),
        rows=number("rows", 0, 1 << 62),
        num_shards=number("num_shards", 0, 1 << 31),
        nbytes=number("nbytes", 0, 1 << 62),
        table=table,
        extra=dict(value["extra"]),
    )
