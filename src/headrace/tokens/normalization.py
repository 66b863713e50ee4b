"""Texts -> which of them hold a character that Unicode tables of different versions normalise differently.

The fast engine and the `tokenizers` library compose text (NFC) by tables of their own. For the characters below, which
Unicode defined or changed lately, the tables differ: in the order of marks, or in what composes. A text that holds one
is encoded by the reference, so that its ids never depend on the rest of the corpus. The list was found by a sweep of
all code points and pairs with marks (tests/tokens/test_normalization.py, campaign), gigatoken 0.10.0, tokenizers 0.23.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from headrace.tokens.flat import FlatTexts

UNEQUAL = (  # first and last code point of each range
    (0x7FD, 0x7FD),
    (0x897, 0x89F),
    (0x8CA, 0x8D3),
    (0x9FE, 0x9FE),
    (0xC3C, 0xC3C),
    (0xD3B, 0xD3C),
    (0xEBA, 0xEBA),
    (0x1715, 0x1715),
    (0x1ABF, 0x1ADD),
    (0x1AE0, 0x1AEB),
    (0x1DF6, 0x1DFA),
    (0xA82C, 0xA82C),
    (0x105D2, 0x105D2),
    (0x105DA, 0x105DA),
    (0x10D24, 0x10D27),
    (0x10D69, 0x10D6D),
    (0x10EAB, 0x10EAC),
    (0x10EFA, 0x10EFB),
    (0x10EFD, 0x10EFF),
    (0x10F46, 0x10F50),
    (0x10F82, 0x10F85),
    (0x11070, 0x11070),
    (0x1133B, 0x1133B),
    (0x11382, 0x11382),
    (0x11384, 0x11384),
    (0x1138B, 0x1138B),
    (0x11390, 0x11390),
    (0x113B8, 0x113B8),
    (0x113BB, 0x113BB),
    (0x113C2, 0x113C2),
    (0x113C9, 0x113C9),
    (0x113CE, 0x113D0),
    (0x1145E, 0x1145E),
    (0x11839, 0x1183A),
    (0x11930, 0x11930),
    (0x11935, 0x11935),
    (0x1193D, 0x1193E),
    (0x11943, 0x11943),
    (0x119E0, 0x119E0),
    (0x11A34, 0x11A34),
    (0x11A47, 0x11A47),
    (0x11A99, 0x11A99),
    (0x11D42, 0x11D42),
    (0x11D44, 0x11D45),
    (0x11D97, 0x11D97),
    (0x11F41, 0x11F42),
    (0x1611E, 0x16122),
    (0x16129, 0x16129),
    (0x1612F, 0x1612F),
    (0x16D63, 0x16D63),
    (0x16D67, 0x16D67),
    (0x16D69, 0x16D69),
    (0x16FF0, 0x16FF1),
    (0x1E08F, 0x1E08F),
    (0x1E130, 0x1E136),
    (0x1E2AE, 0x1E2AE),
    (0x1E2EC, 0x1E2EF),
    (0x1E4EC, 0x1E4EF),
    (0x1E5EE, 0x1E5EF),
    (0x1E6E3, 0x1E6E3),
    (0x1E6E6, 0x1E6E6),
    (0x1E6EE, 0x1E6EF),
    (0x1E6F5, 0x1E6F5),
)


def _pattern() -> re.Pattern[bytes]:
    """The characters' UTF-8, grouped by all but the last byte."""
    encoded = sorted(chr(c).encode() for first, last in UNEQUAL for c in range(first, last + 1))
    groups = groupby(encoded, key=lambda char: char[:-1])
    parts = [
        re.escape(head) + b"[" + b"".join(re.escape(c[-1:]) for c in chars) + b"]" for head, chars in groups
    ]
    return re.compile(b"|".join(parts))


_UNEQUAL = _pattern()


def unequal_texts(texts: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Indices of the texts that hold one of the characters; int64 [k], rising.

    Args:
        texts: valid UTF-8.
    """
    if isinstance(texts, FlatTexts) and _UNEQUAL.search(texts.joined) is None:
        return np.empty(0, dtype=np.int64)
    found = [i for i, text in enumerate(texts) if not text.isascii() and _UNEQUAL.search(text)]
    return np.array(found, dtype=np.int64)
