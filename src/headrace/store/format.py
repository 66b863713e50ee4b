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
FORMAT_VERSION: Final = 2
"""The greatest version that is read; raised when an older reader would misread a newer store."""
PLAIN_VERSION: Final = 1
"""Version of a store in which all tokens are learned; one with learned spans is of version 2."""

SAMPLES_VERSION: Final = 2
"""Of stores of samples: headrace before them reads up to 1, and says so."""

MANIFEST: Final = "manifest.json"
BLOCK_TOKENS: Final = 65_536
"""Tokens in a block: 128 KiB of uint16. Smaller blocks read single rows faster, larger ones compress no better."""
MAX_BLOCK_TOKENS: Final = 1 << 24
MAX_SHARD_TOKENS: Final = 1 << 40
MAX_TOKENS: Final = 1 << 62
MAX_SPAN_TOKENS: Final = (1 << 32) - 1
"""Most tokens of a shard with learned spans, whose positions are uint32."""
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
SPAN_TABLE_FIELDS: Final = (*TABLE_FIELDS, Field("spans_nbytes", "uint64"), Field("spans_xxh3", "uint64"))
"""Columns of the shard table of a store with learned spans."""
INDEX_FIELDS: Final = (
    Field("offset", "uint64"),
    Field("nbytes", "uint32"),
    Field("tokens", "uint32"),
    Field("first", "uint32"),
    Field("xxh3", "uint64"),
)
END_FIELDS: Final = (Field("end", "uint64"),)
SPAN_FIELDS: Final = (Field("begin", "uint32"), Field("end", "uint32"))

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


def spans_path(shard: str) -> str:
    """Path of a shard's learned spans inside the store."""
    return f"data/{shard}.spans.arrow"


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
    """32 hex digits, XXH3-128 of the tokens, document ends and learned spans: the same for every codec."""
    spans_nbytes: int = 0
    """0: the shard has no learned spans, and all its tokens are learned."""
    spans_xxh3: int = 0

    @property
    def nbytes(self) -> int:
        """Stored bytes of the shard's files."""
        return self.data_nbytes + self.index_nbytes + self.docs_nbytes + self.spans_nbytes

    @property
    def has_spans(self) -> bool:
        """Whether some tokens may be given, not learned; then `eos_id` may also occur inside a document."""
        return self.spans_nbytes > 0

    @property
    def num_blocks(self) -> int:
        """Blocks of the shard."""
        return -(-self.tokens // self.block_tokens)

    def to_json(self) -> dict[str, Any]:
        """The values for JSON."""
        values = asdict(self)
        if not self.has_spans:
            del values["spans_nbytes"], values["spans_xxh3"]
        return values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardEntry:
        """Make an entry from the values of `to_json`.

        Raises:
            ManifestError: a field is missing or of another type.
        """
        values = {"spans_nbytes": 0, "spans_xxh3": 0, **value}
        for field in fields(cls):
            expected = int if field.type == "int" else str
            if not isinstance(values.get(field.name), expected):
                raise ManifestError(
                    f"shard entry {value.get('name')!r}: field {field.name} is {values.get(field.name)!r}, "
                    f"expected {expected.__name__}. Written by another version? Write the shard again."
                )
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def check_shard_name(name: str, *, where: str) -> str:
    """Return the name, if it is valid and stays in the store's directory.

    Raises:
        ShardError: it is not valid.
    """
    if not is_name(name) or any(part in name for part in (".index", ".docs", ".spans")):
        raise ShardError(
            f"{where}: shard name {name[:160]!r}: expected up to 128 letters, digits, '.', '_' or '-', beginning "
            "with a letter or digit, without '.index', '.docs' and '.spans'. The table is forged or of another program."
        )
    return name
