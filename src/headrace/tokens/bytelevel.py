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


def bytes_of_chars(token: str) -> bytes:
    """The bytes that a token's characters stand for; of a token with another character its UTF-8."""
    try:
        return token.translate(_latin_1()).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


@functools.cache
def _latin_1() -> dict[int, int]:
    """Characters to those that Latin-1 encodes to their bytes; those that stand for no byte to one that it refuses."""
    table = {ord(char): byte for char, byte in byte_of_char().items()}
    return {code: table.get(code, 0xFFFF) for code in {*range(0x100), *table}}
