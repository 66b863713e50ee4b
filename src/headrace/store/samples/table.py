"""The shard table's bytes of a store of samples <-> the first row and block of each shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ManifestError
from headrace.store.arrow.reader import ArrowFileError, read_columns
from headrace.store.arrow.writer import Field, table_bytes
from headrace.store.format import CODECS, check_shard_name
from headrace.types import Bytes

MAX_SHARD_ROWS: Final = 1 << 40
TABLE_FIELDS: Final = (
    Field("name", "utf8"),
    Field("rows", "uint64"),
    Field("blocks", "uint64"),
    Field("codec", "uint8"),
    Field("data_nbytes", "uint64"),
    Field("data_xxh3", "uint64"),
    Field("index_nbytes", "uint64"),
    Field("index_xxh3", "uint64"),
    Field("content", "binary16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleShardEntry:
    """One shard's row of the shard table."""

    name: str
    rows: int
    blocks: int
    codec: str
    """none | lz4 | zstd."""
    data_nbytes: int
    data_xxh3: int
    """XXH3-64 of the whole file; the next one likewise."""
    index_nbytes: int
    index_xxh3: int
    content: str
    """32 hex digits, XXH3-128 of the columns' values: the same for every codec."""

    @property
    def nbytes(self) -> int:
        """Stored bytes of the shard's two files."""
        return self.data_nbytes + self.index_nbytes

    def to_json(self) -> dict[str, Any]:
        """The values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SampleShardEntry:
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


class SampleTable(Sequence[SampleShardEntry]):
    """A store's shards in the order of their rows; entries are made on access."""

    def __init__(self, data: Bytes, *, where: str) -> None:
        self.where = where
        try:
            self._columns: dict[str, NDArray[Any]] = read_columns(data, TABLE_FIELDS)
        except ArrowFileError as error:
            raise ManifestError(f"{where}: not a shard table of samples: {error}") from error
        rows: NDArray[Any] = self._columns["rows"]
        blocks: NDArray[Any] = self._columns["blocks"]
        codecs: NDArray[Any] = self._columns["codec"]
        if len(rows) and not 1 <= int(rows.min()) <= int(rows.max()) <= MAX_SHARD_ROWS:
            raise ManifestError(f"{where}: a shard of {rows.min()} or {rows.max()} rows, expected 1 to 2**40")
        if bool(((blocks < 1) | (blocks > rows)).any()):
            raise ManifestError(f"{where}: a shard with no block, or with more blocks than rows")
        if len(codecs) and int(codecs.max()) >= len(CODECS):
            raise ManifestError(f"{where}: codec number {codecs.max()}, expected 0 to {len(CODECS) - 1}")
        if float(rows.sum(dtype=np.float64)) > 1 << 62:
            raise ManifestError(f"{where}: more than 2**62 rows")
        self.codecs: NDArray[np.uint8] = codecs
        self.row_starts = starts_of(rows.astype(np.int64))
        """int64 [shards + 1]: rows before each shard."""
        self.block_starts = starts_of(blocks.astype(np.int64))
        """int64 [shards + 1]: blocks before each shard."""

    def __len__(self) -> int:
        return len(self.codecs)

    @overload
    def __getitem__(self, index: int) -> SampleShardEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[SampleShardEntry]: ...
    def __getitem__(self, index: int | slice) -> SampleShardEntry | list[SampleShardEntry]:
        if isinstance(index, slice):
            return [self._entry(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        return self._entry(index % len(self))

    def __iter__(self) -> Iterator[SampleShardEntry]:
        return (self._entry(i) for i in range(len(self)))

    def name(self, index: int) -> str:
        """A shard's name, checked."""
        ends = self._columns["name.ends"]
        raw = self._columns["name.bytes"][int(ends[index]) : int(ends[index + 1])].tobytes()
        return check_shard_name(raw.decode(errors="replace"), where=f"{self.where}: row {index}")

    def _entry(self, index: int) -> SampleShardEntry:
        columns = self._columns
        numbers = {name: int(columns[name][index]) for name in columns if columns[name].dtype == np.uint64}
        return SampleShardEntry(
            name=self.name(index),
            codec=CODECS[int(columns["codec"][index])],
            content=columns["content"][index].tobytes().hex(),
            **numbers,
        )


def encode_table(entries: Sequence[SampleShardEntry]) -> bytes:
    """The table's file for these shards."""
    columns: dict[str, tuple[str, Any]] = {}
    for field in TABLE_FIELDS:
        values: Any = [getattr(entry, field.name) for entry in entries]
        if field.name == "codec":
            values = np.array([CODECS.index(value) for value in values], np.uint8)
        elif field.name == "content":
            values = [bytes.fromhex(value) for value in values]
        elif field.type == "uint64":
            values = np.array(values, np.uint64)
        columns[field.name] = (field.type, values)
    return table_bytes(columns)


def starts_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [n + 1]: the sum of all counts before each."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts
