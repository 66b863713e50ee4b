"""Texts -> hashes of their lines or sentences, and texts without those that the corpus had before.

Source: Wenzek et al. 2020 (CCNet, section 3.1) removes repeated lines, Raffel et al. 2020 (C4) repeated sentences. Here
pieces are compared as they are, blanks around them and runs of blanks aside; the first one of the corpus stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.ingestion.operators import exact

PieceKind: TypeAlias = Literal["lines", "sentences"]
_SENTENCE_ENDS = re.compile(r"(?<=\n)|(?<=[.!?]\s)|(?<=[\u3002\uff01\uff1f])")


def pieces_of(text: bytes, kind: PieceKind) -> list[bytes]:
    r"""All of a text, in lines or sentences, each with what ends it.

    >>> pieces_of(b"One. Two!\nThree", "sentences")
    [b'One. ', b'Two!\n', b'Three']
    """
    if kind == "lines":
        return [line for line in re.split(rb"(?<=\n)", text) if line]
    return [piece.encode() for piece in _SENTENCE_ENDS.split(text.decode()) if piece]


def _key(piece: bytes, min_chars: int) -> bytes | None:
    """What is compared of a piece; None for one that is too short."""
    if len(piece) < min_chars:
        return None
    key = b" ".join(piece.split())
    return key if key and len(key.decode()) >= min_chars else None


def sketch(texts: Sequence[bytes], kind: PieceKind, min_chars: int) -> npt.NDArray[np.uint64]:
    """Hash of each piece that is long enough, of all texts one after the other: uint64 [pieces, 2]."""
    keys = [_key(piece, min_chars) for text in texts for piece in pieces_of(text, kind)]
    return exact.sketch([key for key in keys if key is not None])


def without_repeats(
    text: bytes, repeated: npt.NDArray[np.bool_], kind: PieceKind, min_chars: int
) -> tuple[bytes, int, int]:
    """A text without its repeated pieces.

    Args:
        text: as in `sketch`.
        repeated: of the pieces from this text's first one on, whether each is repeated.
        kind: what a piece is.
        min_chars: shorter ones stay.

    Returns:
        The text; how many pieces of it were compared, and how many of them were removed.
    """
    pieces = pieces_of(text, kind)
    compared = [_key(piece, min_chars) is not None for piece in pieces]
    count = sum(compared)
    flags = repeated[:count]
    removed = int(flags.sum())
    if not removed:
        return text, count, 0
    verdicts = iter(flags.tolist())
    kept = compress(pieces, [not (is_compared and next(verdicts)) for is_compared in compared])
    return b"".join(kept), count, removed
