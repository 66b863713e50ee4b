"""Columns of plain values <-> the bytes of an Arrow IPC file.

Why not pyarrow's own writer and reader: these bytes must be the same on every machine and with every version
of pyarrow, every block's place in the file must be known to the byte, and opening a store must cost neither the
30 MB that importing pyarrow takes nor its trust in sizes that a damaged file declares. What is written here is
plain Arrow: the tests read it with pyarrow and Polars.

    file      magic, schema message, record batches, end of stream, footer, footer's length, magic
    message   FF FF FF FF, uint32 length, flatbuffer (padded), body (padded)

Source: Arrow columnar format, IPC file format, metadata version V5; flatbuffers internals.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = b"ARROW1"
ALIGNMENT: Final = 64
"""Bodies and buffers begin at multiples of this in the file, so that mapped tokens are aligned."""

_INT_BITS: Final = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}
_LZ4_FRAME, _ZSTD = 0, 1
_CODECS: Final = {"lz4": _LZ4_FRAME, "zstd": _ZSTD}

Bytes: TypeAlias = bytes | bytearray | memoryview
Column: TypeAlias = NDArray[np.unsignedinteger] | list[str] | list[bytes]
"""A column to write: unsigned integers, names, or 16-byte values."""


@dataclass(frozen=True, slots=True)
class Field:
    """One column's name and type."""

    name: str
    type: str
    """uint8 | uint16 | uint32 | uint64 | utf8 | binary16 (fixed size, 16 bytes)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Where one record batch stands in a file."""

    offset: int
    metadata_nbytes: int
    body_nbytes: int


# --- flatbuffers, written front to back -----------------------------------------------------------------------


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
    """Append a node and all below it; returns where it begins."""
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


# --- Arrow's messages -----------------------------------------------------------------------------------------

_V5 = _Scalar("h", 4)
_SCHEMA, _RECORD_BATCH = 1, 3
_INT, _UTF8, _FIXED_SIZE_BINARY = 2, 5, 15


def _schema(fields: Sequence[Field]) -> _Table:
    def field(one: Field) -> _Table:
        if one.type in _INT_BITS:
            number, detail = _INT, {0: _Scalar("i", _INT_BITS[one.type]), 1: _Scalar("B", 0)}
        elif one.type == "utf8":
            number, detail = _UTF8, {}
        else:
            number, detail = _FIXED_SIZE_BINARY, {0: _Scalar("i", 16)}
        return {0: one.name, 1: _Scalar("B", 0), 2: _Scalar("B", number), 3: detail, 5: []}

    return {0: _Scalar("h", 0), 1: [field(one) for one in fields]}


def _message(kind: int, header: _Table, body_nbytes: int, *, at: int) -> bytes:
    """An encapsulated message that will stand at file offset `at`; its body begins 64-byte aligned."""
    flat = _flatbuffer({0: _V5, 1: _Scalar("B", kind), 2: header, 3: _Scalar("q", body_nbytes)})
    flat += bytes(-(at + 8 + len(flat)) % ALIGNMENT)
    return struct.pack("<II", 0xFFFFFFFF, len(flat)) + flat


def head(fields: Sequence[Field]) -> bytes:
    """A file's first bytes: magic and schema."""
    start = MAGIC + b"\0\0"
    return start + _message(_SCHEMA, _schema(fields), 0, at=len(start))


def batch_head(*, at: int, rows: int, buffers: Sequence[int], columns: int, codec: str = "none") -> bytes:
    """What precedes a record batch's body.

    Args:
        at: file offset where this message will stand.
        rows: values in each column.
        buffers: stored length in bytes of each buffer, validity buffers (always empty) included; each is
            padded to 64 bytes in the body.
        columns: how many columns the buffers make up.
        codec: none | lz4 | zstd; with a codec every buffer begins with its uncompressed length, int64.

    Returns:
        The bytes up to the body, whose length is `body_nbytes(buffers)`.
    """
    places, offset = [], 0
    for nbytes in buffers:
        places.append((offset, nbytes))
        offset += nbytes + -nbytes % ALIGNMENT
    header: dict[int, _Node] = {
        0: _Scalar("q", rows),
        1: _Structs("qq", [(rows, 0)] * columns),
        2: _Structs("qq", places),
    }
    if codec != "none":
        header[3] = {0: _Scalar("b", _CODECS[codec]), 1: _Scalar("b", 0)}
    return _message(_RECORD_BATCH, header, offset, at=at)


def body_nbytes(buffers: Sequence[int]) -> int:
    """Length of a body with these buffers, padding included."""
    return sum(nbytes + -nbytes % ALIGNMENT for nbytes in buffers)


def tail(fields: Sequence[Field], blocks: Sequence[Block]) -> bytes:
    """A file's last bytes: end of stream, footer, its length, magic."""
    rows = [(block.offset, block.metadata_nbytes, block.body_nbytes) for block in blocks]
    footer = _flatbuffer({0: _V5, 1: _schema(fields), 2: _Structs("qqq", []), 3: _Structs("qqq", rows)})
    return struct.pack("<II", 0xFFFFFFFF, 0) + footer + struct.pack("<i", len(footer)) + MAGIC


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
            buffers.append(np.asarray(values).astype(f"<u{_INT_BITS[kind] // 8}").tobytes())
    start = head(fields)
    lengths = [len(buffer) for buffer in buffers]
    batch = batch_head(at=len(start), rows=rows, buffers=lengths, columns=len(fields))
    block = Block(len(start), len(batch), body_nbytes(lengths))
    padded = [buffer + bytes(-len(buffer) % ALIGNMENT) for buffer in buffers]
    return b"".join([start, batch, *padded, tail(fields, [block])])


# --- reading --------------------------------------------------------------------------------------------------


class ArrowFileError(ValueError):
    """The bytes are not the Arrow file they should be."""


class _Reader:
    """Bounds-checked flatbuffer access; every offset comes from the file and none is trusted."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def number(self, format: str, at: int) -> int:  # noqa: A002  # struct's own word
        if at < 0:
            raise ArrowFileError(f"offset {at} before the beginning")
        try:
            return int(struct.unpack_from("<" + format, self.data, at)[0])
        except struct.error as error:
            raise ArrowFileError(f"offset {at} past the end at {len(self.data)}") from error

    def child(self, at: int) -> int:
        return at + self.number("I", at)

    def field(self, table: int, slot: int) -> int | None:
        vtable = table - self.number("i", table)
        if 4 + 2 * slot + 2 > self.number("H", vtable):
            return None
        place = self.number("H", vtable + 4 + 2 * slot)
        return table + place if place else None

    def scalar(self, table: int, slot: int, format: str, default: int = 0) -> int:  # noqa: A002  # as above
        at = self.field(table, slot)
        return default if at is None else self.number(format, at)

    def vector(self, table: int, slot: int, size: int) -> tuple[int, int]:
        """First element's place and count; elements of `size` bytes all lie inside the buffer."""
        at = self.field(table, slot)
        if at is None:
            return 0, 0
        start = self.child(at)
        count = self.number("I", start)
        if start + 4 + count * size > len(self.data):
            raise ArrowFileError(f"a vector of {count} at {start} in {len(self.data)} bytes")
        return start + 4, count

    def string(self, table: int, slot: int) -> str:
        start, count = self.vector(table, slot, 1)
        return bytes(self.data[start : start + count]).decode(errors="replace")


def read_columns(data: Bytes, fields: Sequence[Field]) -> dict[str, NDArray[np.generic]]:
    """The file's first columns, which must be `fields`, without copying.

    Args:
        data: the whole file: one record batch, nothing compressed, no nulls in these columns.
        fields: names and types that the first columns must have; others may follow.

    Returns:
        name -> array [rows]; utf8 columns give two entries, "<name>.ends" (int32 [rows + 1]) and
        "<name>.bytes" (uint8); binary16 gives uint8 [rows, 16].

    Raises:
        ArrowFileError: the bytes are anything else. No more memory than the file itself is ever asked for.
    """
    view = memoryview(data).cast("B")
    start, rows, buffers = _only_batch(view, fields)
    columns: dict[str, NDArray[np.generic]] = {}
    at = 0

    def take(dtype: str, count: int, name: str) -> NDArray[np.generic]:
        nonlocal at
        if at >= len(buffers):
            raise ArrowFileError(f"column {name}: no buffer {at}, there are {len(buffers)}")
        offset, nbytes = buffers[at]
        at += 1
        needed = count * np.dtype(dtype).itemsize
        if nbytes < needed:
            raise ArrowFileError(f"column {name}: {nbytes} bytes for {count} values, {needed} are needed")
        return np.frombuffer(view[start + offset : start + offset + needed], dtype=dtype)

    for field in fields:
        at += 1  # validity: absent, as the column has no nulls
        if field.type == "utf8":
            ends = take("<i4", rows + 1, field.name)
            if rows and (int(ends[0]) != 0 or bool((np.diff(ends) < 0).any())):
                raise ArrowFileError(f"column {field.name}: ends that do not ascend from 0")
            columns[field.name + ".ends"] = ends
            columns[field.name + ".bytes"] = take("u1", int(ends[-1]), field.name)
        elif field.type == "binary16":
            columns[field.name] = take("u1", rows * 16, field.name).reshape(rows, 16)
        else:
            columns[field.name] = take(f"<u{_INT_BITS[field.type] // 8}", rows, field.name)
    return columns


def _only_batch(view: memoryview, fields: Sequence[Field]) -> tuple[int, int, list[tuple[int, int]]]:
    """Body's file offset, rows, and (offset, bytes) of each buffer of a file with one record batch."""
    size = len(view)
    if size < 24 or bytes(view[:6]) != MAGIC or bytes(view[-6:]) != MAGIC:
        raise ArrowFileError(f"{size} bytes that do not begin and end with {MAGIC.decode()}")
    file = _Reader(view)
    footer_nbytes = file.number("i", size - 10)
    if not 0 < footer_nbytes <= size - 18:
        raise ArrowFileError(f"footer of {footer_nbytes} bytes in a file of {size}")
    footer = _Reader(view[size - 10 - footer_nbytes : size - 10])
    root = footer.child(0)
    schema = footer.field(root, 1)
    if schema is None:
        raise ArrowFileError("no schema")
    _check_fields(footer, footer.child(schema), fields)
    blocks, count = footer.vector(root, 3, 24)
    if count != 1:
        raise ArrowFileError(f"{count} record batches where 1 is expected")
    offset, metadata_nbytes = footer.number("q", blocks), footer.number("i", blocks + 8)
    body = offset + metadata_nbytes
    body_length = footer.number("q", blocks + 16)
    if offset < 8 or metadata_nbytes < 8 or body_length < 0 or body + body_length > size:
        raise ArrowFileError(f"record batch at {offset} + {metadata_nbytes} + {body_length} in {size} bytes")
    message = _Reader(view[offset + 8 : body])
    root = message.child(0)
    header = message.field(root, 2)
    if header is None or message.scalar(root, 1, "B") != _RECORD_BATCH:
        raise ArrowFileError("the block is no record batch")
    batch = message.child(header)
    if message.field(batch, 3) is not None:
        raise ArrowFileError("a compressed record batch where plain ones are expected")
    rows = message.scalar(batch, 0, "q")
    if not 0 <= rows <= size:
        raise ArrowFileError(f"{rows} rows in {size} bytes")
    nodes, node_count = message.vector(batch, 1, 16)
    for i in range(min(node_count, len(fields))):
        if (message.number("q", nodes + 16 * i), message.number("q", nodes + 16 * i + 8)) != (rows, 0):
            raise ArrowFileError(
                f"column {i}: rows or nulls differ from the batch's {rows} rows without nulls"
            )
    if node_count < len(fields):
        raise ArrowFileError(f"{node_count} columns where {len(fields)} are expected")
    places, count = message.vector(batch, 2, 16)
    buffers = []
    for i in range(min(count, 3 * len(fields))):
        first, nbytes = message.number("q", places + 16 * i), message.number("q", places + 16 * i + 8)
        if first < 0 or nbytes < 0 or first + nbytes > body_length:
            raise ArrowFileError(f"buffer {i}: {first} + {nbytes} in a body of {body_length} bytes")
        buffers.append((first, nbytes))
    return body, rows, buffers


def _check_fields(reader: _Reader, schema: int, fields: Sequence[Field]) -> None:
    places, count = reader.vector(schema, 1, 4)
    found = []
    for i in range(min(count, len(fields))):
        table = reader.child(places + 4 * i)
        number, detail = reader.scalar(table, 2, "B"), reader.field(table, 3)
        kind = f"type {number}"
        if number == _UTF8:
            kind = "utf8"
        elif detail is not None and number == _INT and not reader.scalar(reader.child(detail), 1, "B"):
            kind = f"uint{reader.scalar(reader.child(detail), 0, 'i')}"
        elif detail is not None and number == _FIXED_SIZE_BINARY:
            kind = f"binary{reader.scalar(reader.child(detail), 0, 'i')}"
        found.append(Field(reader.string(table, 0), kind))
    if found != list(fields):
        wanted = ", ".join(f"{field.name} {field.type}" for field in fields)
        got = ", ".join(f"{field.name} {field.type}" for field in found)
        raise ArrowFileError(f"columns {got or 'none'}, expected {wanted}")
