"""A local, plain tar and a position -> the member to start from, found by reading headers alone."""

from __future__ import annotations

import os
import re
import tarfile

_BLOCK = tarfile.BLOCKSIZE
_MAX_PAX_BYTES = 1 << 20
_PAX_SIZE = re.compile(rb"(?:^|\n)\d+ size=(\d+)\n")
_WITH_DATA = {*tarfile.REGULAR_TYPES, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}


def last_member_before(path: str, position: int) -> int:
    """Byte of the last member that begins before a position, extended headers included.

    Reading on from there sees the name of a sample that has begun before the position. The archive's beginning is
    the answer where headers alone do not tell: global headers, sparse files, damage.

    Args:
        path: of the archive.
        position: a byte in it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _walk(descriptor, position)
    finally:
        os.close(descriptor)


def _walk(descriptor: int, position: int) -> int:
    at = last = 0
    extended_from: int | None = None
    pax_size: int | None = None
    while at < position:
        block = os.pread(descriptor, _BLOCK, at)
        if not block.strip(b"\0"):
            return last  # the end of the archive
        kind = block[156:157]
        if len(block) < _BLOCK or not _is_header(block) or kind in (tarfile.XGLTYPE, tarfile.GNUTYPE_SPARSE):
            return 0
        stored = _size(block)
        if stored is None:
            return 0
        size = stored if pax_size is None else pax_size
        begins = at if extended_from is None else extended_from
        is_member = kind not in _PAX and kind not in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if is_member:
            last, extended_from, pax_size = begins, None, None
        else:
            extended_from = begins
            if kind in _PAX:
                if stored > _MAX_PAX_BYTES:
                    return 0
                found = _PAX_SIZE.search(os.pread(descriptor, stored, at + _BLOCK))
                pax_size = pax_size if found is None else int(found[1])
        has_data = kind in _WITH_DATA or kind in _PAX or kind not in tarfile.SUPPORTED_TYPES
        at += _BLOCK + (-(-size // _BLOCK) * _BLOCK if has_data else 0)
    return last if extended_from is None else extended_from


def _is_header(block: bytes) -> bool:
    """Does the checksum match?"""
    return _number(block[148:156]) == 256 + sum(block) - sum(block[148:156])


def _size(block: bytes) -> int | None:
    return _number(block[124:136])


def _number(field: bytes) -> int | None:
    """An octal number, or a binary one where its first bit is set; None for neither, or a negative one."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None
