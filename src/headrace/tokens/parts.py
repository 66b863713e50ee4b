"""Texts with a given and a learned part -> ids, and which of them are learned.

A text is cut at its special tokens and encoded between them, as the `tokenizers` library does. A token that overlaps a
learned run of bytes is learned: where each token is follows from the bytes that ids stand for. Where they do not (a
tokenizer that is not byte-level, or changes the text), that library encodes the whole text and says where.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.errors import TokenizerError
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
        own_ends = np.flatnonzero(learned & (ids == self._tokenizer.eos_id)).searchsorted(offsets)
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
        names: list[bytes] = []
        counts = np.empty(len(texts), np.int64)  # pieces and special tokens of each text, by turns
        for i, (text, mark) in enumerate(zip(texts, marks, strict=True)):
            parts = self._cut(text, mark)
            pieces += parts[::2]
            names += parts[1::2]
            counts[i] = len(parts)
        begins = np.concatenate(([0], np.cumsum(counts)))
        is_piece = ((np.arange(begins[-1]) - np.repeat(begins[:-1], counts)) & 1) == 0
        lengths = np.zeros(len(is_piece), np.int64)
        lengths[is_piece] = np.fromiter(map(len, pieces), np.int64, len(pieces))
        ordinary, offsets = self._tokenizer.encode_batch(list(filter(None, pieces)))
        lengths[lengths > 0] = np.diff(offsets)
        numbers = np.fromiter((self._special.get(name, -1) for name in names), np.int64, len(names))
        lengths[~is_piece] = numbers >= 0  # -1: a cut beside which there is no special token
        spread = np.repeat(is_piece, lengths)
        ids = np.empty(len(spread), np.uint32)
        ids[spread] = ordinary
        ids[~spread] = numbers[numbers >= 0]
        places = np.concatenate(([0], np.cumsum(lengths)))[begins]
        learned, exact = self._learned(texts, marks, ids, places)
        if exact.all():
            return ids, np.diff(places), learned
        return self._corrected(texts, marks, ids, places, learned, exact)

    def _cut(self, text: bytes, mark: PartMarks | None) -> list[bytes]:
        """Ordinary pieces at even places, special tokens at odd ones; empty pieces between neighbours."""
        if mark is None:
            return [text]
        if mark.has_special:
            return [text] if self._pattern is None else self._pattern.split(text)
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *mark.cuts, len(text)])]
        return [piece for pair in zip(pieces, [b""] * len(pieces), strict=True) for piece in pair][:-1]

    def _learned(
        self,
        texts: Sequence[bytes],
        marks: Sequence[PartMarks | None],
        ids: Ids,
        places: NDArray[np.int64],
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which ids are learned, and for each text whether the bytes of its ids are as many as its own."""
        ends = np.concatenate(([0], np.cumsum(self._id_bytes[ids])))
        text_ends = np.concatenate(([0], np.cumsum([len(text) for text in texts])))
        exact = np.diff(ends[places]) == np.diff(text_ends)
        shift = ends[places[:-1]]  # of all bytes of ids before each text
        runs = [
            (base + begin, base + end)
            for text, mark, base in zip(texts, marks, shift.tolist(), strict=True)
            for begin, end in _runs(text, mark)
        ]
        steps = np.zeros(len(ids) + 1, np.int8)
        if runs:
            begins, stops = np.array(runs, np.int64).T
            # From the first token that ends behind a run's begin to the last that begins before its end.
            np.add.at(steps, ends[1:].searchsorted(begins, "right"), 1)
            np.subtract.at(steps, ends[:-1].searchsorted(stops, "left"), 1)
        learned = np.cumsum(steps[:-1], dtype=np.int8) > 0
        for i, mark in enumerate(marks):
            if mark is None:
                learned[places[i] : places[i + 1]] = exact[i] = True
        return learned, exact

    def _corrected(
        self,
        texts: Sequence[bytes],
        marks: Sequence[PartMarks | None],
        ids: Ids,
        places: NDArray[np.int64],
        learned: NDArray[np.bool_],
        exact: NDArray[np.bool_],
    ) -> tuple[Ids, NDArray[np.int64], NDArray[np.bool_]]:
        """The same, with the texts whose bytes the tokenizer has changed encoded whole."""
        rows, flags = [], []
        for i, is_exact in enumerate(exact.tolist()):
            row, mask = ids[places[i] : places[i + 1]], learned[places[i] : places[i + 1]]
            if not is_exact:
                row, _, mask = self._encode_whole(texts[i : i + 1], marks[i : i + 1])
            rows.append(row)
            flags.append(mask)
        lengths = np.array([len(row) for row in rows], np.int64)
        return np.concatenate(rows), lengths, np.concatenate(flags)

    @functools.cached_property
    def _id_bytes(self) -> NDArray[np.int64]:
        """Bytes of text that each id stands for, special tokens by their names."""
        table = np.array([len(piece) for piece in self._tokenizer.token_bytes()], np.int64)
        for name, i in self._special.items():
            table[i] = len(name)
        return table

    def _encode_whole(
        self, texts: Sequence[bytes], marks: Sequence[PartMarks | None]
    ) -> tuple[Ids, NDArray[np.int64], NDArray[np.bool_]]:
        if not isinstance(self._tokenizer, HFTokenizer):
            raise TokenizerError(
                f"tokenizer {self._tokenizer.name}: it changes text, so the learned part of a conversation cannot be "
                "told from the given one. Use a tokenizer.json of the same model"
            )
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


def _runs(text: bytes, mark: PartMarks | None) -> list[tuple[int, int]]:
    """Learned runs of bytes that are not empty."""
    if mark is None:
        return [(0, len(text))] if text else []
    edges = mark.edges
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
