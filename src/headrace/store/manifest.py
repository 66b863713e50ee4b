"""A manifest's bytes <-> a store's tokenizer, types, totals, and the name of its shard table.

The file is JSON whose last member is `checksum`: XXH3-64, in 16 hex digits, of all bytes before those digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import xxhash

from headrace.errors import ManifestError
from headrace.store.format import (
    FORMAT,
    FORMAT_VERSION,
    MAX_BLOCK_TOKENS,
    PLAIN_VERSION,
    SAMPLES_VERSION,
    is_name,
)
from headrace.types import Bytes

StoreKind: TypeAlias = Literal["tokens", "samples"]
VERSIONS: Final[Mapping[str, int]] = {"tokens": FORMAT_VERSION, "samples": SAMPLES_VERSION}
_CURES: Final[Mapping[str, str]] = {
    "tokens": "Open it with headrace.SampleStore.open(...), and read it with headrace.Loader in a loop of your "
    "own; train, diagnose and generate take stores of tokens, which headrace ingest writes without --samples",
    "samples": "Open it with headrace.Store.open(...)",
}
_END = b'"\n}\n'
_DIGITS = 16
MAX_MANIFEST_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSum:
    """A file's length and checksum, as they are in the manifest."""

    name: str
    nbytes: int
    xxh3_128: str
    """32 hex digits."""

    @classmethod
    def of(cls, name: str, data: bytes) -> FileSum:
        """Length and checksum of these bytes."""
        return cls(name=name, nbytes=len(data), xxh3_128=xxhash.xxh3_128_hexdigest(data))

    def check(self, data: Bytes, *, where: str) -> None:
        """Check that these are the bytes.

        Raises:
            ManifestError: length or checksum differ.
        """
        actual = xxhash.xxh3_128_hexdigest(data)
        if len(data) != self.nbytes or actual != self.xxh3_128:
            raise ManifestError(
                f"{where}/{self.name}: {len(data)} bytes with xxh3-128 {actual}, the manifest says {self.nbytes} bytes "
                f"with {self.xxh3_128}. The file is damaged or of another store: restore it, or ingest again."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A store at one snapshot."""

    snapshot: int
    """1 for a new store; each commit adds one."""
    fingerprint: str
    """32 hex digits: a hash of the tokens, document ends, tokenizer and type; the same for every codec."""
    dtype: str
    vocab_size: int
    eos_id: int
    block_tokens: int
    tokens: int
    documents: int
    num_shards: int
    nbytes: int
    """Stored bytes of all shards' files."""
    table: FileSum
    tokenizer_name: str
    tokenizer_fingerprint: str
    tokenizer_files: tuple[FileSum, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """JSON values of the writer, such as its sources."""
    has_spans: bool = False
    """Whether some shard has learned spans: a store of format version 2."""

    def to_bytes(self) -> bytes:
        """The file's bytes; the same for the same values."""
        values = asdict(self)
        version = FORMAT_VERSION if values.pop("has_spans") else PLAIN_VERSION
        value = {"format": FORMAT, "format_version": version, **values}
        value["extra"] = dict(sorted(self.extra.items()))
        return seal_manifest(value)


def seal_manifest(value: Mapping[str, Any]) -> bytes:
    """A manifest's file of these members, with its checksum as the last one."""
    text = (json.dumps({**value, "checksum": "0" * _DIGITS}, indent=2, ensure_ascii=True) + "\n").encode()
    body = text[: -len(_END) - _DIGITS]
    return body + f"{xxhash.xxh3_64_intdigest(body):016x}".encode() + _END


def fingerprint_of(contents: bytes, *, tokenizer_fingerprint: str, dtype: str) -> str:
    """32 hex digits: a hash of all shards' content hashes (16 bytes each, in order), the tokenizer and the type."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (tokenizer_fingerprint.encode(), dtype.encode(), contents):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def open_manifest(data: Bytes, *, where: str, kind: StoreKind) -> dict[str, Any]:
    """A manifest's members, its checksum compared; their values are not checked.

    Raises:
        ManifestError: truncated, changed, of another format, version or kind.
    """
    data = bytes(data)
    body = data[: -len(_END) - _DIGITS]
    checksum = data[len(body) :]
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{where}: {len(data)} bytes that are not JSON ({error}). Truncated or damaged: restore it, "
            "or open an older snapshot."
        ) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ManifestError(f'{where}: not a headrace store\'s manifest (no "format": "{FORMAT}")')
    version, newest = value.get("format_version"), VERSIONS[kind]
    actual = value.get("kind", "tokens")
    if actual in VERSIONS and actual != kind:
        raise ManifestError(f"{where}: a store of {actual}, expected one of {kind}. {_CURES[kind]}")
    if isinstance(version, int) and version > newest:
        raise ManifestError(
            f"{where}: format version {version}, this headrace reads up to {newest}. Upgrade headrace."
        )
    # Compared as text: hex digits have two cases, and only one spelling of each byte is valid.
    expected = f"{xxhash.xxh3_64_intdigest(body):016x}".encode() + _END
    if checksum != expected:
        raise ManifestError(
            f"{where}: checksum {checksum[:_DIGITS]!r}, the bytes give {expected[:_DIGITS]!r}. Changed by "
            "hand or damaged: restore it, or open an older snapshot."
        )
    return value


def parse_manifest(data: Bytes, *, where: str) -> Manifest:
    """Read a manifest's values and check every byte.

    Raises:
        ManifestError: truncated, changed, of another format or version, or with values out of range.
    """
    value = open_manifest(data, where=where, kind="tokens")
    try:
        return _manifest(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error!r}. Forged, or written by another program.") from error


def _manifest(value: dict[str, Any]) -> Manifest:
    def number(name: str, low: int, high: int) -> int:
        got = value[name]
        if not isinstance(got, int) or isinstance(got, bool) or not low <= got <= high:
            raise ValueError(f"{name} is {got!r}, expected {low} to {high}")
        return got

    def text(name: str, pattern: str) -> str:
        got = value[name]
        if not isinstance(got, str) or not re.fullmatch(pattern, got):
            raise ValueError(f"{name} is {got!r}, expected {pattern}")
        return got

    version = number("format_version", PLAIN_VERSION, FORMAT_VERSION)
    dtype = text("dtype", "uint16|uint32")
    ids = 1 << 8 * np.dtype(dtype).itemsize
    vocab_size = number("vocab_size", 1, ids)
    table = file_sum_of(value["table"])
    if table.name != f"shards-{table.xxh3_128}.arrow":
        raise ValueError(f"shard table named {table.name!r}, expected shards-{table.xxh3_128}.arrow")
    return Manifest(
        snapshot=number("snapshot", 1, 10**8 - 1),
        fingerprint=text("fingerprint", "[0-9a-f]{32}"),
        dtype=dtype,
        vocab_size=vocab_size,
        eos_id=number("eos_id", 0, vocab_size - 1),
        block_tokens=number("block_tokens", 1, MAX_BLOCK_TOKENS),
        tokens=number("tokens", 0, 1 << 62),
        documents=number("documents", 0, 1 << 62),
        num_shards=number("num_shards", 0, 1 << 31),
        nbytes=number("nbytes", 0, 1 << 62),
        table=table,
        tokenizer_name=text("tokenizer_name", r"[^\0]{0,4096}"),
        tokenizer_fingerprint=text("tokenizer_fingerprint", "[0-9a-f]{1,128}"),
        tokenizer_files=tuple(file_sum_of(one) for one in value["tokenizer_files"]),
        extra=dict(value["extra"]),
        has_spans=version > PLAIN_VERSION,
    )


def file_sum_of(value: Mapping[str, Any]) -> FileSum:
    """A file's length and checksum, of a manifest's member. Raises: ValueError, KeyError."""
    file = FileSum(name=value["name"], nbytes=value["nbytes"], xxh3_128=value["xxh3_128"])
    if not is_name(file.name):
        raise ValueError(f"file name {file.name!r}: expected letters, digits, '.', '_', '-'")
    if not isinstance(file.nbytes, int) or not 0 <= file.nbytes < 1 << 40:
        raise ValueError(f"{file.name}: nbytes is {file.nbytes!r}")
    if not re.fullmatch("[0-9a-f]{32}", file.xxh3_128):
        raise ValueError(f"{file.name}: xxh3_128 is {file.xxh3_128!r}")
    return file
