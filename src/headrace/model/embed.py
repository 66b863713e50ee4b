"""Word vectors of another program and a tokenizer -> a first token table, and how much of it they cover.

Two sources: word2vec's own formats, text and binary (what gensim's save_word2vec_format writes), and the word
embeddings of a BERT in a Hugging Face directory. Vectors are matched by the text of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headrace.errors import ConfigError
from headrace.model.initialize import INIT_STD
from headrace.paths import local_path
from headrace.tokens import Tokenizer

Vectors = NDArray[np.float32]
_BERT_TABLE = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordVectors:
    """Words and their vectors."""

    rows: Mapping[str, int]
    table: Vectors
    """[words, dims]."""
    source: str
    """"word2vec" or "bert", and the file's XXH3-128; run.json keeps it."""
    pieces: bool
    """Whether "##x" names x inside a word (BERT's WordPiece)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """A first token table."""

    table_VW: Tensor
    """float32 [V, W]; rows without a match are drawn as in a fresh model."""
    hit: NDArray[np.bool_]
    """[V]: which tokens found a vector."""

    @property
    def hit_rate(self) -> float:
        """Share of the vocabulary that found a vector."""
        return float(self.hit.mean())


def read_vectors(path: str | PathLike[str]) -> WordVectors:
    """Word vectors of a file or a BERT directory.

    Raises:
        ConfigError: nothing there, or not one of the formats; says which line or tensor.
    """
    path = local_path(path, name="embeddings", cure="Copy the vectors to a local path.")
    if path.is_dir():
        return _read_bert(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. Give word2vec vectors (.txt, .bin) or a BERT directory.")
    with path.open("rb") as file:
        count, dims = _read_head(file, path)
        start = file.tell()
        first = file.readline(1 << 20)
        file.seek(start)
        fields = first.rstrip().rsplit(b" ", dims)  # a word may hold spaces, also at its beginning
        is_text = len(fields) == dims + 1 and all(_is_number(field) for field in fields[1:])
        words, rows = [], np.empty((count, dims), np.float32)
        for row, (word, vector) in enumerate(
            (_read_text if is_text else _read_binary)(file, count, dims, path)
        ):
            words.append(word)
            rows[row] = vector
        if rest := file.read(1 << 10).strip():
            raise ConfigError(
                f"{path}: goes on after its {count} vectors with {rest[:40]!r}: not word2vec's text format, and "
                f"not its binary one. Write it with gensim's save_word2vec_format."
            )
    if not np.isfinite(rows).all():
        row = int(np.argmax(~np.isfinite(rows).all(1)))
        raise ConfigError(
            f"{path}: the vector of {words[row]!r}, number {row + 1}, has a value that is not finite. Training would "
            f"diverge; leave the word out."
        )
    return WordVectors(
        rows={word: row for row, word in reversed(list(enumerate(words)))},  # the first of a word's rows
        table=rows,
        source=f"word2vec {_hash(path)}",
        pieces=False,
    )


def match_tokens(vectors: WordVectors, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Row of the vector of each token, -1 where there is none, int64 [V].

    A token that begins a word (" the") looks for "the", then "The" in lower case; one inside a word looks
    for "##ing" where the source has pieces, else for "ing".
    """
    rows = np.full(tokenizer.vocab_size, -1, np.int64)
    for number, raw in enumerate(tokenizer.token_bytes()):
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            continue  # a part of a character
        begins = text.startswith(" ")
        word = text.strip()
        if not word:
            continue
        names = [word, word.lower()]
        if vectors.pieces and not begins:
            names = [f"##{word}", f"##{word.lower()}", *names]
        rows[number] = next((vectors.rows[name] for name in names if name in vectors.rows), -1)
    return rows


def token_table(vectors: WordVectors, tokenizer: Tokenizer, fresh_VW: Tensor) -> TokenTable:
    """A first token table: matched vectors at the scale of a fresh model, the rest as it was drawn.

    More dimensions than the width: the matched vectors' principal ones are kept. Fewer: the others stay
    as drawn.

    Args:
        vectors: from read_vectors.
        tokenizer: the model's.
        fresh_VW: what a fresh model has, [V, W]; V may exceed the tokenizer's.

    Raises:
        ConfigError: no token has a vector.
    """
    rows = match_tokens(vectors, tokenizer)
    hit = np.zeros(fresh_VW.shape[0], bool)
    hit[: len(rows)] = rows >= 0
    if not hit.any():
        raise ConfigError(
            f"embeddings: none of {tokenizer.vocab_size} tokens has a vector in it. Another language, or a "
            f"tokenizer of single bytes?"
        )
    matched = torch.from_numpy(vectors.table[rows[rows >= 0]])
    matched = matched - matched.mean(0)
    width = fresh_VW.shape[1]
    if matched.shape[1] > width:
        _, _, axes = torch.linalg.svd(matched, full_matrices=False)
        matched = matched @ axes[:width].T
    matched = matched * (INIT_STD / matched.std().clamp(min=1e-12))
    table = fresh_VW.clone()
    table[torch.from_numpy(hit), : matched.shape[1]] = matched
    return TokenTable(table_VW=table, hit=hit)


def _read_head(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Number of words and of dimensions, as far as the file is long enough for them."""
    head = file.readline(100)
    try:
        count, dims = (int(number) for number in head.split())
    except ValueError:
        raise ConfigError(
            f"{path}: its first line is {head[:40]!r}, expected word2vec's 'words dimensions'. "
            f"Write it with gensim's save_word2vec_format."
        ) from None
    size = path.stat().st_size
    if count < 1 or dims < 1 or 2 * count * dims > size:  # a number takes two bytes at least
        raise ConfigError(
            f"{path}: its first line says {count} words of {dims} dimensions, the file has {size} bytes."
        )
    return count, dims


def _read_bert(directory: Path) -> WordVectors:
    weights = directory / "model.safetensors"
    try:
        words = _bert_words(directory)
        with safe_open(weights, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(_BERT_TABLE)]  # noqa: SIM118  # no mapping
            if not names:
                raise ConfigError(f"{weights}: no tensor named *{_BERT_TABLE}; not a BERT.")
            table = file.get_tensor(names[0]).float().numpy()
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{directory}: not a BERT directory with tokenizer.json or vocab.txt, and model.safetensors ({error!r})."
        ) from error
    outside = [word for word, row in words.items() if not isinstance(row, int) or not 0 <= row < len(table)]
    if table.ndim != 2 or outside:
        raise ConfigError(
            f"{directory}: its vocabulary has {len(words)} pieces, its table is {list(table.shape)}"
            f"{f'; {outside[0]!r} has no row' if outside else ''}. The two do not belong together."
        )
    if not np.isfinite(table).all():
        raise ConfigError(f"{weights}: {names[0]} has values that are not finite; training would diverge.")
    return WordVectors(rows=words, table=table, source=f"bert {_hash(weights)}", pieces=True)


def _bert_words(directory: Path) -> dict[str, int]:
    """Row of each piece; directories older than tokenizer.json have a line for each."""
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.exists():
        lines = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return {word.rstrip("\r"): row for row, word in enumerate(lines) if word}
    definition: dict[str, Any] = orjson.loads(tokenizer.read_bytes())
    words: dict[str, int] = definition["model"]["vocab"]
    return words


def _read_text(file: BinaryIO, count: int, dims: int, path: Path) -> Iterator[tuple[str, Vectors]]:
    for number in range(count):
        word, *fields = file.readline().rstrip().rsplit(b" ", dims)
        if len(fields) != dims:
            raise ConfigError(
                f"{path}: line {number + 2} has {len(fields)} numbers, its first line says {dims}."
            )
        try:
            yield word.decode(errors="replace"), np.array(fields, np.float32)
        except ValueError:
            raise ConfigError(f"{path}: line {number + 2} has a field that is no number.") from None


def _read_binary(file: BinaryIO, count: int, dims: int, path: Path) -> Iterator[tuple[str, Vectors]]:
    for number in range(count):
        word = bytearray()
        while (char := file.read(1)) not in {b" ", b""}:
            word += char
        raw = file.read(4 * dims)
        if len(raw) != 4 * dims:
            raise ConfigError(f"{path}: ends within word {number + 1} of {count}; the file is cut short.")
        # Some writers end a vector with a line feed; it then begins the next word.
        yield word.lstrip(b"\n").decode(errors="replace"), np.frombuffer(raw, "<f4")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
