"""An open store -> a summary of it: counts, sizes, shards, and some rows as text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headrace.native import Target, native_target
from headrace.store.format import ShardEntry
from headrace.store.store import Store

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

SHOWN_SHARDS = 20
MAX_SHOWN_TOKENS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSample:
    """A row, decoded to text."""

    row: int
    seq_len: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Text of neighbouring tokens of a document, or a special token by its name."""

    text: str
    is_learned: bool
    is_special: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSample:
    """A document of which a part may be given, decoded to text part by part; special tokens by their names."""

    document: int
    """Number of its shard's documents before it."""
    shard: str
    parts: tuple[tuple[str, str], ...]
    """(given | learned, text)."""
    turns: tuple[tuple[TextPiece, ...], ...]
    """The same; a turn ends where a learned part does, and after the special token that ends answers."""
    is_cut: bool
    """Whether the document has more tokens than are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """A summary of a store."""

    url: str
    snapshot: int
    fingerprint: str
    documents: int
    tokens: int
    nbytes: int
    """Stored bytes of all shards."""
    bytes_per_token: float
    tokens_per_document: float
    vocab_size: int
    tokenizer: str | None
    """None for Megatron files that were opened without one."""
    dtype: str
    codec: str
    num_shards: int
    shards: tuple[ShardEntry, ...]
    """The first `SHOWN_SHARDS`."""
    samples: tuple[TextSample, ...]
    documents_shown: tuple[DocumentSample, ...] = ()
    """Whole documents instead of rows, for a store with learned spans."""
    given_tokens: int = 0
    """Tokens that ingest has stored as given, not learned."""
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that runs here, or "off": Python does the same work."""


def inspect_store(store: Store, *, samples: int = 3, seq_len: int = 64, seed: int = 0) -> StoreReport:
    """Summarize a store.

    Args:
        store: an open store.
        samples: rows to decode, spread over the store; the same for the same seed. Of a store with learned spans,
            whole documents.
        seq_len: tokens of such a row; fewer for a smaller store.
        seed: chooses the rows.

    Raises:
        ManifestError: the tokenizer's files are missing or damaged.
        ShardError: a block that was sampled is damaged or missing.
    """
    seq_len = max(1, min(seq_len, store.num_tokens - 1))
    rows = store.num_rows(seq_len)
    tokenizer = store.tokenizer if store.has_tokenizer else None
    samples = samples if tokenizer is not None else 0
    documents: tuple[DocumentSample, ...] = ()
    if store.has_spans and tokenizer is not None:
        documents = tuple(_document_samples(store, tokenizer, samples, seed))
        samples = 0
    sampled = np.sort(np.random.default_rng(seed).choice(rows, size=min(samples, rows), replace=False))
    return StoreReport(
        url=store.url,
        snapshot=store.snapshot,
        fingerprint=store.fingerprint,
        documents=store.num_documents,
        tokens=store.num_tokens,
        nbytes=store.nbytes,
        bytes_per_token=store.nbytes / max(1, store.num_tokens),
        tokens_per_document=store.num_tokens / max(1, store.num_documents),
        vocab_size=store.vocab_size,
        tokenizer=tokenizer.name if tokenizer is not None else None,
        dtype=store.dtype.name,
        codec=store.codec,
        num_shards=store.num_shards,
        shards=tuple(store.shards[i] for i in range(min(SHOWN_SHARDS, store.num_shards))),
        samples=tuple(
            TextSample(
                row=int(row),
                seq_len=seq_len,
                text=tokenizer.decode(store.read(int(row) * seq_len, (int(row) + 1) * seq_len)),
            )
            for row in sampled
            if tokenizer is not None
        ),
        documents_shown=documents,
        given_tokens=sum(one.get("given_tokens", 0) for one in store.extra.get("ingest", ())),
    )


def _document_samples(
    store: Store, tokenizer: Tokenizer, samples: int, seed: int
) -> Iterator[DocumentSample]:
    """Documents spread over the store, each shown up to MAX_SHOWN_TOKENS."""
    names = {i: name for name, i in tokenizer.special_tokens().items()}
    places = np.sort(np.random.default_rng(seed).choice(store.num_tokens, size=samples))
    shards = store.token_starts.searchsorted(places, "right") - 1
    shown = set()
    for place, shard in zip(places.tolist(), shards.tolist(), strict=True):
        low, high = store.token_starts[shard : shard + 2].tolist()
        ends = store.document_ends(low, high)
        number = int(ends.searchsorted(place, "right"))
        if number == len(ends) or (shard, number) in shown:
            continue
        shown.add((shard, number))
        begin, end = low if number == 0 else int(ends[number - 1]), int(ends[number])
        stop = min(end, begin + MAX_SHOWN_TOKENS)
        tokens, learned = store.read(begin, stop), store.learned([begin], stop - begin)
        edges = [0, *(np.flatnonzero(np.diff(learned)) + 1).tolist(), stop - begin]
        pieces = [
            piece
            for a, b in itertools.pairwise(edges)
            for piece in _pieces(tokenizer, names, tokens[a:b], is_learned=bool(learned[a]))
        ]
        parts = itertools.groupby(pieces, key=lambda piece: "learned" if piece.is_learned else "given")
        yield DocumentSample(
            document=number,
            shard=store.shards[shard].name,
            parts=tuple((kind, "".join(piece.text for piece in part)) for kind, part in parts),
            turns=tuple(_turns(pieces)),
            is_cut=stop < end,
        )


def _pieces(
    tokenizer: Tokenizer, names: dict[int, str], tokens: NDArray[Any], *, is_learned: bool
) -> Iterator[TextPiece]:
    special = np.flatnonzero(np.isin(tokens, list(names)))
    at = 0
    for place in [*special.tolist(), len(tokens)]:
        if at < place:
            yield TextPiece(text=tokenizer.decode(tokens[at:place]), is_learned=is_learned, is_special=False)
        if place < len(tokens):
            yield TextPiece(text=names[int(tokens[place])], is_learned=is_learned, is_special=True)
        at = place + 1


def _turns(pieces: list[TextPiece]) -> Iterator[tuple[TextPiece, ...]]:
    special = [piece for piece in pieces if piece.is_special]
    ends = {piece.text for piece in special if piece.is_learned}
    if all(piece.is_learned for piece in pieces):  # no part says which special token ends an answer
        ends = {piece.text for piece in special[-1:]}
    turns: list[list[TextPiece]] = [[]]
    has_ended = False
    for before, piece in zip([None, *pieces], pieces, strict=False):
        text = piece.text
        if has_ended and not piece.is_special and text.startswith("\n"):  # the line of the turn that ends
            rest = text.lstrip("\n")
            turns[-1].append(replace(piece, text=text[: len(text) - len(rest)]))
            text = rest
        is_answered = before is not None and before.is_learned and not piece.is_learned
        if turns[-1] and text and (has_ended or is_answered):
            turns.append([])
        if text:
            turns[-1].append(replace(piece, text=text))
            has_ended = piece.is_special and text in ends
    if len(turns) > 1 and all(piece.is_special for piece in turns[-1]):  # the end of the document
        turns[-2] += turns.pop()
    yield from map(tuple, turns)
