"""A manifest's bytes <-> what a store is: its tokenizer, its types, its totals, and the name of its shard table.

The file is JSON whose last member is `checksum`: XXH3-64, in 16 hex digits, of all bytes before those digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xxhash

from headrace.errors import ManifestError
from headrace.store.format import FORMAT, FORMAT_VERSION, MAX_BLOCK_TOKENS, is_name
from headrace.types import Bytes

_END = b'"\n}\n'
_DIGITS = 16
MAX_MANIFEST_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSum:
    """A file's length and checksum, as the manifest holds them."""

    name: str
    nbytes: int
    xxh3_128: str
    """32 hex digits."""

    @classmethod
    def of(cls, name: str, data: bytes) -> FileSum:
        """Of these bytes."""
        return cls(name=name, nbytes=len(data), xxh3_128=xxhash.xxh3_128_hexdigest(data))

    def check(self, data: Bytes, *, where: str) -> None:
        """Refuse other bytes.

        Raises:
            ManifestError: length or checksum differ.
        """
        got = xxhash.xxh3_128_hexdigest(data)
        if len(data) != self.nbytes or got != self.xxh3_128:
            raise ManifestError(
                f"{where}/{self.name}: {len(data)} bytes with xxh3-128 {got}, the manifest says {self.nbytes} bytes "
                f"with {self.xxh3_128}. The file is damaged or of another store: restore it, or ingest again."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store is, at one snapshot."""

    snapshot: int
    """1 for a new store; each commit adds one."""
    fingerprint: str
    """32 hex digits of the tokens, document ends, tokenizer and type; the same for every codec."""
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
    """What the writer wanted to keep, such as its sources; JSON values."""

    def to_bytes(self) -> bytes:
        """The file; the same for the same values."""
        value = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "checksum": "0" * _DIGITS,
        }
        value["extra"] = dict(sorted(self.extra.items()))
        text = (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode()
        body = text[: -len(_END) - _DIGITS]
        return body + f"{xxhash.xxh3_64_intdigest(body):016x}".encode() + _END


def fingerprint_of(contents: bytes, *, tokenizer_fingerprint: str, dtype: str) -> str:
    """32 hex digits of all shards' content hashes (16 bytes each, in order), the tokenizer and the type."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (tokenizer_fingerprint.encode(), dtype.encode(), contents):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def parse_manifest(data: Bytes, *, where: str) -> Manifest:
    """A manifest's bytes -> its values, every byte checked.

    Raises:
        ManifestError: truncated, changed, of another format or version, or with values that cannot be.
    """
    data = bytes(data)
    body = data[: -len(_END) - _DIGITS]
    got = data[len(body) :]
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{where}: {len(data)} bytes that are not JSON ({error}). Truncated or damaged: restore it, "
            "or open an older snapshot."
        ) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ManifestError(f'{where}: not a headrace store\'s manifest (no "format": "{FORMAT}")')
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ManifestError(
            f"{where}: format version {version}, this headrace reads up to {FORMAT_VERSION}. Upgrade headrace."
        )
    # As text: hex digits have two cases, and only one spelling of each byte is right.
    want = f"{xxhash.xxh3_64_intdigest(body):016x}".encode() + _END
    if got != want:
        raise ManifestError(
            f"{where}: checksum {got[:_DIGITS]!r}, the bytes give {want[:_DIGITS]!r}. Changed by hand or damaged: "
            "restore it, or open an older snapshot."
        )
    try:
        return _manifest(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error!r}. Forged, or written by another program.") from error


def _manifest(value: dict[str, Any]) -> Manifest:
    def number(name: str, low: int, high: int) -> int:
        got = value[name]
        if not isinstance(got, int) or isinstance(got, bool) or not low <= got <= high:
            raise ValueError(f"{name} is {got!r}, wanted {low} to {high}")
        return got

    def text(name: str, pattern: str) -> str:
        got = value[name]
        if not isinstance(got, str) or not re.fullmatch(pattern, got):
            raise ValueError(f"{name} is {got!r}, wanted {pattern}")
        return got

    if value["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version is {value['format_version']!r}, wanted {FORMAT_VERSION}")
    dtype = text("dtype", "uint16|uint32")
    ids = 1 << 8 * np.dtype(dtype).itemsize
    vocab_size = number("vocab_size", 1, ids)
    table = _file_sum(value["table"])
    if table.name != f"shards-{table.xxh3_128}.arrow":
        raise ValueError(f"shard table named {table.name!r}, wanted shards-{table.xxh3_128}.arrow")
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
        tokenizer_files=tuple(_file_sum(one) for one in value["tokenizer_files"]),
        extra=dict(value["extra"]),
    )


def _file_sum(value: Mapping[str, Any]) -> FileSum:
    found = FileSum(name=value["name"], nbytes=value["nbytes"], xxh3_128=value["xxh3_128"])
    if not is_name(found.name):
        raise ValueError(f"file name {found.name!r}: wanted letters, digits, '.', '_', '-'")
    if not isinstance(found.nbytes, int) or not 0 <= found.nbytes < 1 << 40:
        raise ValueError(f"{found.name}: nbytes is {found.nbytes!r}")
    if not re.fullmatch("[0-9a-f]{32}", found.xxh3_128):
        raise ValueError(f"{found.name}: xxh3_128 is {found.xxh3_128!r}")
    return found
