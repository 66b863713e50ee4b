"""Names, limits and types of a store's files. The format is described in docs/format.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np

from headrace.errors import ConfigError, ManifestError, ShardError
from headrace.store.arrow.writer import Field

FORMAT: Final = "headrace-store"
FORMAT_VERSION: Final = 1
"""Raised when an older reader would misread a newer store; independent of the package's version."""

SAMPLES_VERSION: Final = 2
"""Of stores of samples: headrace before them reads up to 1, and says so."""

MANIFEST: Final = "manifest.json"
BLOCK_TOKENS: Final = 65_536
"""Tokens in a block: 128 KiB of uint16. Smaller blocks read single rows faster, larger ones compress no better."""
MAX_BLOCK_TOKENS: Final = 1 << 24
MAX_SHARD_TOKENS: Final = 1 << 40
MAX_TOKENS: Final = 1 << 62
CODECS: Final = ("none", "lz4", "zstd")
"""A shard's codec by its number in the shard table."""

TABLE_FIELDS: Final = (
    Field("name", "utf8"),
    Field("tokens", "uint64"),
    Field("documents", "uint64"),
    Field("codec", "uint8"),
    Field("data_nbytes", "uint64"),
    Field("data_xxh3", "uint64"),
    Field("index_nbytes", "uint64"),
    Field("index_xxh3", "uint64"),
    Field("docs_nbytes", "uint64"),
    Field("docs_xxh3", "uint64"),
    Field("content", "binary16"),
)
INDEX_FIELDS: Final = (
    Field("offset", "uint64"),
    Field("nbytes", "uint32"),
    Field("tokens", "uint32"),
    Field("first", "uint32"),
    Field("xxh3", "uint64"),
)
END_FIELDS: Final = (Field("end", "uint64"),)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Smallest type that holds ids in [0, vocab_size).

    >>> token_dtype(50257), token_dtype(65536), token_dtype(65537)
    (dtype('uint16'), dtype('uint16'), dtype('uint32'))

    Raises:
        ConfigError: vocab_size is not in [1, 2**32].
    """
    if not 1 <= vocab_size <= 1 << 32:
        raise ConfigError(f"vocab_size {vocab_size}: a vocabulary has 1 to 2**32 ids")
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def is_name(name: str) -> bool:
    """Whether a name may be that of a file in a store: ASCII without separators and without a leading dot."""
    return _NAME.fullmatch(name) is not None


def data_path(shard: str) -> str:
    """Path of a shard's tokens inside the store."""
    return f"data/{shard}.arrow"


def index_path(shard: str) -> str:
    """Path of a shard's block index inside the store."""
    return f"data/{shard}.index.arrow"


def docs_path(shard: str) -> str:
    """Path of a shard's document ends and metadata inside the store."""
    return f"data/{shard}.docs.arrow"


def tokenizer_path(name: str) -> str:
    """Path of one of the tokenizer's files inside the store."""
    return f"tokenizer/{name}"


def snapshot_path(snapshot: int) -> str:
    """Path of the snapshot's own manifest, which remains when the next snapshot is committed."""
    return f"manifest-{snapshot:08d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard's row of the shard table."""

    name: str
    tokens: int
    documents: int
    """Document ends inside the shard; a document may begin in the shard before."""
    codec: str
    """none | lz4 | zstd."""
    block_tokens: int
    """Tokens in each block but the last."""
    dtype: str
    """uint16 | uint32."""
    data_nbytes: int
    data_xxh3: int
    """XXH3-64 of the whole file; the next two files likewise."""
    index_nbytes: int
    index_xxh3: int
    docs_nbytes: int
    docs_xxh3: int
    content: str
    """32 hex digits, XXH3-128 of the tokens and document ends: the same for every codec."""

    @property
    def nbytes(self) -> int:
        """Stored bytes of the shard's three files."""
        return self.data_nbytes + self.index_nbytes + self.docs_nbytes

    @property
    def num_blocks(self) -> int:
        """Blocks of the shard."""
        return -(-self.tokens // self.block_tokens)

    def to_json(self) -> dict[str, Any]:
        """The values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardEntry:
        """Make an entry from the values of `to_json`.

        Raises:
            ManifestError: a field is missing or of another type.
        """
        for field in fields(cls):
            expected = int if field.type == "int" else str
            if not isinstance(value.get(field.name), expected):
                raise ManifestError(
                    f"shard entry {value.get('name')!r}: field {field.name} is {value.get(field.name)!r}, "
                    f"expected {expected.__name__}. Written by another version? Write the shard again."
                )
        return cls(**{field.name: value[field.name] for field in fields(cls)})


def check_shard_name(name: str, *, where: str) -> str:
    """Return the name, if it is valid and stays in the store's directory.

    Raises:
        ShardError: it is not valid.
    """
    if not is_name(name) or ".index" in name or ".docs" in name:
        raise ShardError(
            f"{where}: shard name {name[:160]!r}: expected up to 128 letters, digits, '.', '_' or '-', beginning "
            "with a letter or digit, without '.index' and '.docs'. The table is forged or of another program."
        )
    return name
