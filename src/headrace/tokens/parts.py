"""Texts with a given and a learned part -> ids, and which of them are learned.

The parts, and what is between special tokens, are encoded by themselves, as a model's prompt is: no token holds
characters of both. Where pieces of a text cannot be encoded apart (a tokenizer that is not byte-level puts a blank
before each), the `tokenizers` library encodes the whole text, and a token that overlaps a learned part is learned.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.tokens.huggingface import HFTokenizer
from headrace.tokens.protocol import Ids, Offsets, Tokenizer, offsets_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMarks:
    """Which bytes of a text are learned, and whether special tokens in it are special."""

    edges: tuple[int, ...]
    """First byte of a learned run, one past its last byte, first byte of the next run, and so on."""
    cuts: tuple[int, ...]
    """Other bytes before which the text is cut, and encoded apart; ascending."""
    has_special: bool
    """True for a template's text; in plain text a special token's name is text like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedParts:
    """Ids of texts without the end of document, and which are learned."""

    ids: Ids
    offsets: Offsets
    """int64 [texts + 1]."""
    learned: NDArray[np.bool_]
    """[ids]."""
    learned_ends: NDArray[np.bool_]
    """[texts]: whether the end of document, which follows each text, is learned."""


class PartEncoder:
    """Encodes texts with marks by a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {name.encode(): i for name, i in tokenizer.special_tokens().items() if name}
        names = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile(b"(" + b"|".join(map(re.escape, names)) + b")") if names else None
        self._whole = isinstance(tokenizer, HFTokenizer) and not tokenizer.encodes_pieces_alike

    def encode(self, texts: Sequence[bytes], marks: Sequence[PartMarks | None]) -> EncodedParts:
        """Encode texts of valid UTF-8; one without marks is learned whole.

        The end-of-document id at the end of a text (some templates write it) is left to the caller, who writes one
        after each text. Where the template writes none, the caller's is learned if a learned run reaches the end of the
        text, and the template has ended the answer by no token of its own.
        """
        if self._whole:
            ids, lengths, learned = self._encode_whole(texts, marks)
        else:
            ids, lengths, learned = self._encode_pieces(texts, marks)
        offsets = offsets_of(lengths)
        last = offsets[1:] - 1
        own = lengths > 0
        own[own] = ids[last[own]] == self._tokenizer.eos_id
        ends = self._learned_ends(texts, marks, ids, offsets, learned)
        ends[own] = learned[last[own]]
        keep = np.ones(len(ids), np.bool_)
        keep[last[own]] = False
        return EncodedParts(
            ids=ids[keep], offsets=offsets_of(lengths - own), learned=learned[keep], learned_ends=ends
        )

    def _learned_ends(
        self,
        texts: Sequence[bytes],
        marks: Sequence[PartMarks | None],
        ids: Ids,
        offsets: Offsets,
        learned: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Whether an end of document after each text is learned."""
        own_ends = np.concatenate(([0], np.cumsum(learned & (ids == self._tokenizer.eos_id))))[offsets]
        ended = np.diff(own_ends) > 0
        some = offsets[1:] > offsets[:-1]
        ended[some] |= np.isin(ids[offsets[1:][some] - 1], list(self._special.values()))
        return np.array(
            [
                mark is None
                or mark.edges == (0, len(text))
                or (mark.edges[-1:] == (len(text),) and not (mark.has_special and has_end))
                for text, mark, has_end in zip(texts, marks, ended.tolist(), strict=True)
            ],
            np.bool_,
        )

    def _encode_pieces(
        self, texts: Sequence[bytes], marks: Sequence[PartMarks | None]
    ) -> tuple[Ids, NDArray[np.int64], NDArray[np.bool_]]:
        """Ids of all texts, how many each has, and which are learned."""
        pieces: list[bytes] = []
        special: list[int] = []  # of each piece or special token: -1, or its id
        flags: list[bool] = []
        counts: list[int] = []
        for text, mark in zip(texts, marks, strict=True):
            before = len(special)
            for part, is_learned in _parts(text, mark):
                if mark is None or not mark.has_special or self._pattern is None:
                    pieces.append(part)
                    special.append(-1)
                    flags.append(is_learned)
                    continue
                for number, piece in enumerate(self._pattern.split(part)):
                    if piece:
                        if number % 2:
                            special.append(self._special[piece])
                        else:
                            pieces.append(piece)
                            special.append(-1)
                        flags.append(is_learned)
            counts.append(len(special) - before)
        ordinary, offsets = self._tokenizer.encode_batch(pieces)
        numbers = np.array(special, np.int64)
        is_special = numbers >= 0
        lengths = np.ones(len(numbers), np.int64)
        lengths[~is_special] = np.diff(offsets)
        spread = np.repeat(is_special, lengths)
        ids = np.empty(len(spread), np.uint32)
        ids[spread] = numbers[is_special]
        ids[~spread] = ordinary
        learned = np.repeat(np.array(flags, np.bool_), lengths)
        borders = np.concatenate(([0], np.cumsum(lengths)))[
            np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        ]
        return ids, np.diff(borders), learned

    def _encode_whole(
        self, texts: Sequence[bytes], marks: Sequence[PartMarks | None]
    ) -> tuple[Ids, NDArray[np.int64], NDArray[np.bool_]]:
        assert isinstance(self._tokenizer, HFTokenizer)
        rows, flags = [], []
        for text, mark in zip(texts, marks, strict=True):
            special = mark is not None and mark.has_special
            row, places = self._tokenizer.encode_with_places(text.decode(), special=special)
            rows.append(row)
            if mark is None:
                flags.append(np.ones(len(row), np.bool_))
                continue
            chars = [len(text[:edge].decode()) for edge in mark.edges]
            inside = np.zeros(len(row), np.bool_)
            for begin, end in zip(chars[::2], chars[1::2], strict=True):
                inside |= (places[:, 0] < end) & (places[:, 1] > begin)
            flags.append(inside)
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.concatenate([np.empty(0, np.uint32), *rows]).astype(np.uint32)
        return ids, lengths, np.concatenate([np.empty(0, np.bool_), *flags])


def _parts(text: bytes, marks: PartMarks | None) -> list[tuple[bytes, bool]]:
    """Pieces of a text between its edges and cuts, and whether each is learned."""
    if marks is None:
        return [(text, True)]
    edges = marks.edges
    places = [0, *edges, len(text)]
    parts = [(text[a:b], i % 2 == 1) for i, (a, b) in enumerate(itertools.pairwise(places)) if a < b]
    if not marks.cuts:
        return parts
    cut_parts, at = [], 0
    for part, learned in parts:
        inside = [at, *(c for c in marks.cuts if at < c < at + len(part)), at + len(part)]
        cut_parts += [(text[a:b], learned) for a, b in itertools.pairwise(inside)]
        at += len(part)
    return cut_parts
