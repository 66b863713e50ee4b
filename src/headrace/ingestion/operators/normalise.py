"""A text -> the same text in Unicode's composed form (NFC), its lines ended by a newline alone."""

from __future__ import annotations

import unicodedata


def normalise(text: bytes) -> bytes:
    r"""Compose characters and unify line ends.

    >>> normalise("e\u0301t\u00e9\r\nligne\rfin".encode()).decode()
    'été\nligne\nfin'

    Source: Unicode Standard Annex 15.
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if text.isascii():
        return text
    string = text.decode()
    return text if unicodedata.is_normalized("NFC", string) else unicodedata.normalize("NFC", string).encode()
