"""Byte -> the printable character that stands for it in a byte-level vocabulary, and back.

Printable Latin-1 bytes stand for themselves; the other 68 take the characters from U+0100 on, in order.
"""

from __future__ import annotations

import functools


@functools.cache
def char_of_byte() -> dict[int, str]:
    """All 256 bytes -> one character each."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


@functools.cache
def byte_of_char() -> dict[str, int]:
    """256 characters -> the byte that each stands for."""
    return {char: byte for byte, char in char_of_byte().items()}
