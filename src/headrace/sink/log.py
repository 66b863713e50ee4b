r"""Finished rows -> an append-only log of frames; a torn log -> every whole frame before the damage.

    log    = magic (8 bytes, "HRWAL\0\0\1"), run id (16 bytes), frame*
    frame  = length (uint32, little endian, 1 to 2**30), crc32c of the payload (uint32), payload

A frame that is cut off or fails its checksum ends the log: after a power cut pages can reach the disk in
any order, so nothing behind the first bad byte is trusted. Such rows were not committed and are made again.
Length 0 is no frame: a hole of zeros has the right checksum for an empty payload.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from headrace.errors import SinkError
from headrace.storage import disk_errors, write_all

MAGIC = b"HRWAL\0\0\1"
HEAD_BYTES = len(MAGIC) + 16
FRAME = struct.Struct("<II")
MAX_PAYLOAD_BYTES = 1 << 30


class WriteAheadLog:
    """The log of the part that is being filled."""

    def __init__(self, path: Path, *, run_id: str) -> None:
        self.path = path
        self._head = MAGIC + bytes.fromhex(run_id)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.nbytes = 0
        """Bytes up to the end of the last whole frame."""

    def recover(self) -> list[bytes]:
        """Payloads of all whole frames; the rest of the file is cut off."""
        with self.path.open("rb") as file:
            data = file.read()
        payloads: list[bytes] = []
        self.nbytes = 0
        if data[:HEAD_BYTES] == self._head:
            self.nbytes = HEAD_BYTES
            for payload in frames(memoryview(data)[HEAD_BYTES:]):
                payloads.append(bytes(payload))
                self.nbytes += FRAME.size + len(payload)
        elif data[: len(MAGIC)] == MAGIC and len(data) >= HEAD_BYTES:
            raise SinkError(
                f"{self.path}: the log belongs to run {data[len(MAGIC) : HEAD_BYTES].hex()}, "
                f"this is run {self._head[len(MAGIC) :].hex()}. "
                f"Remove the log, or give another output directory."
            )
        os.ftruncate(self._fd, self.nbytes)
        os.lseek(self._fd, self.nbytes, os.SEEK_SET)
        if not self.nbytes:
            self._write(self._head)
        return payloads

    def append(self, payload: bytes) -> None:
        """Add one frame; on a full disk the log ends with the last whole frame, as before."""
        if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
            raise SinkError(
                f"{self.path}: a row of {len(payload)} bytes; a frame holds 1 to {MAX_PAYLOAD_BYTES} bytes."
            )
        self._write(FRAME.pack(len(payload), google_crc32c.value(payload)) + payload)

    def _write(self, data: bytes) -> None:
        try:
            with disk_errors(self.path, kept="Every row stored before this one is kept."):
                write_all(self._fd, data)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.nbytes)
                os.lseek(self._fd, self.nbytes, os.SEEK_SET)
            raise
        self.nbytes += len(data)

    def sync(self) -> None:
        """Make all frames survive a power cut (they survive a kill without it)."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; it stays on disk."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete: its rows are committed."""
        self.close()
        with contextlib.suppress(OSError):  # the next open removes it: its part is committed
            self.path.unlink()


def frames(data: memoryview) -> Iterator[memoryview]:
    """Whole frames' payloads, up to the first byte that is not a whole frame."""
    at = 0
    while at + FRAME.size <= len(data):
        length, crc = FRAME.unpack_from(data, at)
        stop = at + FRAME.size + length
        if not 0 < length <= MAX_PAYLOAD_BYTES or stop > len(data):
            return
        payload = data[at + FRAME.size : stop]
        if google_crc32c.value(bytes(payload)) != crc:
            return
        yield payload
        at = stop
