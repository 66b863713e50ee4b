"""Columns of plain values -> the bytes of an Arrow IPC file.

Why not pyarrow's own writer: these bytes must be the same on every machine and with every version of pyarrow,
and every block's position in the file must be known to the byte. Reading (see `reader`) must neither take the 30 MB
of importing pyarrow, nor trust what a damaged file declares. The files are plain Arrow: the tests read them with
pyarrow and Polars.

    file      magic, schema message, record batches, end of stream, footer, footer's length, magic
    message   FF FF FF FF, uint32 length, flatbuffer (padded), body (padded)

Source: Arrow columnar format, IPC file format, metadata version V5; flatbuffers internals.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = b"ARROW1"
ALIGNMENT: Final = 64
"""Bodies and buffers begin at multiples of this in the file, so that mapped tokens are aligned."""

INT_BITS: Final = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}
_SIGNED_BITS: Final = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
_PRECISIONS: Final = {"float16": 0, "float32": 1, "float64": 2}
_LZ4_FRAME, _ZSTD = 0, 1
_CODECS: Final = {"lz4": _LZ4_FRAME, "zstd": _ZSTD}
CODEC_NAMES: Final = {number: name for name, number in _CODECS.items()}

Column: TypeAlias = NDArray[np.unsignedinteger] | list[str] | list[bytes]
"""A column to write: unsigned integers, names, or 16-byte values."""


@dataclass(frozen=True, slots=True)
class Field:
    """One column's name and type."""

    name: str
    type: str
    """uint8 | uint16 | uint32 | uint64 | utf8 | binary16 (fixed size, 16 bytes); of samples also int8 | int16 | int32 |
    int64 | float16 | float32 | float64 | binary | list | fixed_list."""
    children: tuple[Field, ...] = ()
    """The one field of the values of a list or fixed_list."""
    size: int = 0
    """Values in each fixed_list."""


@dataclass(frozen=True, slots=True)
class BatchLocation:
    """Position of one record batch in a file."""

    offset: int
    metadata_nbytes: int
    body_nbytes: int


# --- flatbuffers, written front to back ---


@dataclass(frozen=True, slots=True)
class _Scalar:
    format: str
    value: int


@dataclass(frozen=True, slots=True)
class _Structs:
    """A vector of structs of 8-byte words."""

    format: str
    rows: Sequence[tuple[int, ...]]


_Node: TypeAlias = "_Scalar | _Structs | str | Sequence[_Table] | _Table"
_Table: TypeAlias = Mapping[int, "_Node"]
"""Slot of a field -> its value."""


def _pad(buffer: bytearray, multiple: int, plus: int = 0) -> None:
    buffer.extend(bytes(-(len(buffer) + plus) % multiple))


def _put(buffer: bytearray, node: _Node) -> int:
    """Append a node and its children; returns the position of the node."""
    if isinstance(node, str):
        _pad(buffer, 4)
        at = len(buffer)
        text = node.encode()
        buffer += struct.pack("<I", len(text)) + text + b"\0"
        return at
    if isinstance(node, _Structs):
        _pad(buffer, 8, plus=4)
        at = len(buffer)
        buffer += struct.pack("<I", len(node.rows))
        for row in node.rows:
            buffer += struct.pack("<" + node.format, *row)
        return at
    if isinstance(node, Mapping):
        return _put_table(buffer, node)
    assert not isinstance(node, _Scalar)
    _pad(buffer, 4)
    at = len(buffer)
    buffer += struct.pack("<I", len(node)) + bytes(4 * len(node))
    for i, child in enumerate(node):
        slot = at + 4 + 4 * i
        struct.pack_into("<I", buffer, slot, _put(buffer, child) - slot)
    return at


def _put_table(buffer: bytearray, table: _Table) -> int:
    slots = max(table, default=-1) + 1
    _pad(buffer, 4)
    vtable = len(buffer)
    buffer.extend(bytes(4 + 2 * slots))
    _pad(buffer, 8, plus=4)  # the table's first field, after its 4 bytes of offset, is 8-byte aligned
    at = len(buffer)
    buffer.extend(bytes(4))
    formats = {slot: node.format if isinstance(node, _Scalar) else "I" for slot, node in table.items()}
    places = {}
    for slot in sorted(table, key=lambda s: (-struct.calcsize(formats[s]), s)):
        places[slot] = len(buffer)
        node = table[slot]
        buffer += struct.pack("<" + formats[slot], node.value if isinstance(node, _Scalar) else 0)
    struct.pack_into("<HH", buffer, vtable, 4 + 2 * slots, len(buffer) - at)
    for slot, place in places.items():
        struct.pack_into("<H", buffer, vtable + 4 + 2 * slot, place - at)
    struct.pack_into("<i", buffer, at, at - vtable)
    for slot, place in places.items():
        node = table[slot]
        if not isinstance(node, _Scalar):
            struct.pack_into("<I", buffer, place, _put(buffer, node) - place)
    return at


def _flatbuffer(root: _Table) -> bytes:
    buffer = bytearray(4)
    struct.pack_into("<I", buffer, 0, _put(buffer, root))
    return bytes(buffer)


# --- Arrow's messages ---

_V5 = _Scalar("h", 4)
SCHEMA, RECORD_BATCH = 1, 3
INT, FLOAT, BINARY, UTF8, LIST, FIXED_SIZE_BINARY, FIXED_SIZE_LIST = 2, 3, 4, 5, 12, 15, 16


_PLAIN_TYPES: Final = {"binary": BINARY, "utf8": UTF8, "list": LIST}


def _schema(fields: Sequence[Field]) -> _Table:
    def field(one: Field) -> _Table:
        if one.type in INT_BITS:
            number, detail = INT, {0: _Scalar("i", INT_BITS[one.type]), 1: _Scalar("B", 0)}
        elif one.type in _SIGNED_BITS:
            number, detail = INT, {0: _Scalar("i", _SIGNED_BITS[one.type]), 1: _Scalar("B", 1)}
        elif one.type in _PRECISIONS:
            number, detail = FLOAT, {0: _Scalar("h", _PRECISIONS[one.type])}
        elif one.type == "fixed_list":
            number, detail = FIXED_SIZE_LIST, {0: _Scalar("i", one.size)}
        elif one.type in _PLAIN_TYPES:
            number, detail = _PLAIN_TYPES[one.type], {}
        else:
            number, detail = FIXED_SIZE_BINARY, {0: _Scalar("i", 16)}
        children = [field(child) for child in one.children]
        return {0: one.name, 1: _Scalar("B", 0), 2: _Scalar("B", number), 3: detail, 5: children}

    return {0: _Scalar("h", 0), 1: [field(one) for one in fields]}


def _message(kind: int, header: _Table, body_nbytes: int, *, at: int) -> bytes:
    """An encapsulated message for file offset `at`; its body begins 64-byte aligned."""
    flat = _flatbuffer({0: _V5, 1: _Scalar("B", kind), 2: header, 3: _Scalar("q", body_nbytes)})
    flat += bytes(-(at + 8 + len(flat)) % ALIGNMENT)
    return struct.pack("<II", 0xFFFFFFFF, len(flat)) + flat


def head(fields: Sequence[Field]) -> bytes:
    """A file's first bytes: magic and schema."""
    start = MAGIC + b"\0\0"
    return start + _message(SCHEMA, _schema(fields), 0, at=len(start))


def batch_head(
    *,
    at: int,
    rows: int,
    buffers: Sequence[int],
    columns: int,
    codec: str = "none",
    nodes: Sequence[int] | None = None,
) -> bytes:
    """The bytes before a record batch's body.

    Args:
        at: file offset of this message.
        rows: values in each column.
        buffers: stored length in bytes of each buffer, validity buffers (always empty) included; each is
            padded to 64 bytes in the body.
        columns: number of columns of the buffers.
        codec: none | lz4 | zstd; with a codec every buffer begins with its uncompressed length, int64.
        nodes: values of each column and of each list's values, depth first; `rows` in each column by default.

    Returns:
        The bytes up to the body, whose length is `body_nbytes(buffers)`.
    """
    places, offset = [], 0
    for nbytes in buffers:
        places.append((offset, nbytes))
        offset += nbytes + -nbytes % ALIGNMENT
    header: dict[int, _Node] = {
        0: _Scalar("q", rows),
        1: _Structs("qq", [(rows, 0)] * columns if nodes is None else [(node, 0) for node in nodes]),
        2: _Structs("qq", places),
    }
    if codec != "none":
        header[3] = {0: _Scalar("b", _CODECS[codec]), 1: _Scalar("b", 0)}
    return _message(RECORD_BATCH, header, offset, at=at)


def body_nbytes(buffers: Sequence[int]) -> int:
    """Length of a body with these buffers, padding included."""
    return sum(nbytes + -nbytes % ALIGNMENT for nbytes in buffers)


def tail(fields: Sequence[Field], blocks: Sequence[BatchLocation]) -> bytes:
    """A file's last bytes: end of stream, footer, its length, magic."""
    rows = [(block.offset, block.metadata_nbytes, block.body_nbytes) for block in blocks]
    footer = _flatbuffer({0: _V5, 1: _schema(fields), 2: _Structs("qqq", []), 3: _Structs("qqq", rows)})
    return struct.pack("<II", 0xFFFFFFFF, 0) + footer + struct.pack("<i", len(footer)) + MAGIC


@dataclass(frozen=True, slots=True)
class Frame:
    """The bytes around the columns of a file of `table_bytes` whose columns are numbers only."""

    start: bytes
    places: tuple[int, ...]
    """File offset of each column's values."""
    end: bytes


@lru_cache(maxsize=256)
def frame(fields: tuple[Field, ...], rows: int) -> Frame:
    """The frame of a file with these columns of unsigned integers and this number of rows."""
    lengths = [n for field in fields for n in (0, rows * INT_BITS[field.type] // 8)]
    start = head(fields)
    batch = batch_head(at=len(start), rows=rows, buffers=lengths, columns=len(fields))
    places, at = [], len(start) + len(batch)
    for nbytes in lengths[1::2]:
        places.append(at)
        at += nbytes + -nbytes % ALIGNMENT
    block = BatchLocation(len(start), len(batch), body_nbytes(lengths))
    return Frame(start + batch, tuple(places), tail(fields, [block]))


def table_bytes(columns: Mapping[str, tuple[str, Column]]) -> bytes:
    """A whole file with one record batch.

    Args:
        columns: name -> (type, values), all of one length.
    """
    fields = [Field(name, kind) for name, (kind, _) in columns.items()]
    rows = len(next(iter(columns.values()))[1])
    buffers: list[bytes] = []
    for kind, values in columns.values():
        assert len(values) == rows
        buffers.append(b"")
        if kind == "utf8":
            texts = [value.encode() for value in values if isinstance(value, str)]
            ends = np.cumsum([0, *map(len, texts)])
            buffers += [ends.astype("<i4").tobytes(), b"".join(texts)]
        elif kind == "binary16":
            buffers.append(b"".join(value for value in values if isinstance(value, bytes)))
        else:
            buffers.append(np.asarray(values).astype(f"<u{INT_BITS[kind] // 8}").tobytes())
    start = head(fields)
    lengths = [len(buffer) for buffer in buffers]
    batch = batch_head(at=len(start), rows=rows, buffers=lengths, columns=len(fields))
    block = BatchLocation(len(start), len(batch), body_nbytes(lengths))
    padded = [buffer + bytes(-len(buffer) % ALIGNMENT) for buffer in buffers]
    return b"".join([start, batch, *padded, tail(fields, [block])])
