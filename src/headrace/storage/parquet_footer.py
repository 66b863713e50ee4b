"""The bytes that end a Parquet file -> whether it is encrypted: Arrow ends the process where it meets such a column.

Only the numbers of the footer's own fields are read; everything in them is passed over.

Source: the Parquet format's parquet.thrift (FileMetaData, field 8: encryption_algorithm); Thrift's compact protocol.
"""

from __future__ import annotations

from typing import Any

from headrace.errors import SourceError

_ENCRYPTION_ALGORITHM = 8
_MAX_FOOTER_BYTES = 1 << 30
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_MAX_DEPTH = 64


def refuse_encrypted(file: Any, url: str) -> None:
    """Raise where a Parquet file is encrypted, as a whole or some of its columns.

    Args:
        file: readable and seekable; its position is the start afterwards.
        url: for the message.

    Raises:
        SourceError: it is encrypted, or its footer is damaged.
    """
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    tail = file.read(8) or b""
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] == b"PARE":
        raise _encrypted(url)
    if tail[4:] != b"PAR1" or not 0 < length <= min(size - 8, _MAX_FOOTER_BYTES):
        raise SourceError(
            f"{url}: damaged Parquet file: it does not end with a footer (its last bytes are {tail.hex(' ')}). "
            f"Truncated, or not what its name says? Fetch it again"
        )
    file.seek(size - 8 - length)
    footer = file.read(length) or b""
    file.seek(0)
    try:
        fields = _Compact(footer).field_ids()
    except (IndexError, ValueError) as error:
        raise SourceError(
            f"{url}: damaged Parquet file: its footer cannot be read. Fetch it again"
        ) from error
    if _ENCRYPTION_ALGORITHM in fields:
        raise _encrypted(url)


def _encrypted(url: str) -> SourceError:
    return SourceError(f"{url}: an encrypted Parquet file. Decrypt it first: headrace has no keys")


class _Compact:
    """A struct in Thrift's compact protocol, of which only field numbers are kept."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def field_ids(self) -> set[int]:
        """Numbers of the struct's fields."""
        return self._struct(0)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _struct(self, depth: int) -> set[int]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        found: set[int] = set()
        number = 0
        while (head := self._byte()) & 0x0F != _STOP:
            step = head >> 4
            if step:
                number += step
            else:
                zigzag = self._varint()
                number = (zigzag >> 1) ^ -(zigzag & 1)
            found.add(number)
            if head & 0x0F not in (_TRUE, _FALSE):
                self._value(head & 0x0F, depth)
        return found

    def _value(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):
            self._at += 1
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            size = self._varint()
            self._at += size
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            self._items(head & 0x0F, count, depth)
        elif kind == _MAP:
            count = self._varint()
            if count:
                kinds = self._byte()
                for _ in range(self._bounded(count)):
                    self._value(kinds >> 4, depth + 1)
                    self._value(kinds & 0x0F, depth + 1)
        elif kind == _STRUCT:
            self._struct(depth + 1)
        else:
            raise ValueError(f"a value of an unknown kind {kind}")
        if self._at > len(self._data):
            raise IndexError("a value reaches beyond the footer")

    def _items(self, kind: int, count: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        for _ in range(self._bounded(count)):
            self._value(kind, depth + 1)

    def _bounded(self, count: int) -> int:
        if count > len(self._data):
            raise ValueError("more items than bytes")
        return count
