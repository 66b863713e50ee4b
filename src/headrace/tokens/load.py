"""A tokenizer's name, path or files -> the tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from headrace.errors import TokenizerError
from headrace.paths import local_path
from headrace.tokens.byte import ByteTokenizer
from headrace.tokens.encodings import ENCODINGS, encoding_from_files, named_encoding
from headrace.tokens.huggingface import DEFINITION, SIDE_FILES, HFTokenizer
from headrace.tokens.pieces import MODEL, PieceTokenizer, pieces_from_files
from headrace.tokens.protocol import DESCRIPTION, Tokenizer
from headrace.tokens.ranks_file import (
    TEKKEN,
    is_ranks_file,
    is_tekken,
    parse_tekken,
    tokenizer_of_ranks,
    tokenizer_of_tekken,
)
from headrace.tokens.vocab_merges import FILE_PAIRS, convert_pair, find_pair

Engine: TypeAlias = Literal["auto", "fast", "reference"]
TiktokenEngine: TypeAlias = Literal["auto", "fast", "tiktoken"]


def load_tokenizer(spec: str | os.PathLike[str], *, engine: Engine = "auto") -> Tokenizer:
    """A tokenizer by name or path; nothing is downloaded.

    Args:
        spec: "byte"; one of tiktoken's encodings (gpt2, cl100k_base, ...; its files must be present, see
            TIKTOKEN_CACHE_DIR); a tokenizer.json; vocab.json and merges.txt; a Hugging Face directory; a SentencePiece
            .model file; a .tiktoken file or Llama's tokenizer.model; a tekken.json; a store's tokenizer/ directory.
        engine: "auto" takes the fast engine where it gives the reference's ids on text that tells engines
            apart; "fast" takes it unchecked, where it can be built (for those who check it themselves);
            "reference" takes the library that defines the tokenizer.

    Raises:
        TokenizerError: no such name or file, a file that is no tokenizer, or a damaged one.
    """
    name = os.fspath(spec)
    if name == "byte":
        return ByteTokenizer()
    if name in ENCODINGS and not Path(name).exists():
        return named_encoding(name, engine="tiktoken" if engine == "reference" else engine)
    path = local_path(spec, name="tokenizer", cure="Copy its files to a local path.")
    if path.is_dir():
        return _from_directory(path, engine)
    if not path.is_file():
        raise TokenizerError(
            f"{name}: no such tokenizer. Expected: byte, {', '.join(ENCODINGS)}, or the path of a tokenizer.json, a "
            f"vocab.json beside its merges.txt, a Hugging Face directory, a SentencePiece .model, a .tiktoken file or "
            f"a tekken.json"
        )
    return _from_file(path, engine)


def tokenizer_from_files(files: Mapping[str, bytes], *, engine: Engine = "auto") -> Tokenizer:
    """The tokenizer whose `files()` these are, as a store carries them.

    Raises:
        TokenizerError: files are missing, or of a kind that this version does not know.
    """
    about: Any = {}
    try:
        about = orjson.loads(files[DESCRIPTION])
        kind, name = about["kind"], about["name"]
        if kind == "byte":
            return ByteTokenizer()
        if kind == "tiktoken":
            return encoding_from_files(files, engine="tiktoken" if engine == "reference" else engine)
        if kind == "huggingface":
            return HFTokenizer(
                name=name,
                definition=files[DEFINITION],
                side_files={file: files[file] for file in SIDE_FILES if file in files},
                eos_id=about["eos_id"],
                engine="tokenizers" if engine == "reference" else engine,
            )
        if kind == "sentencepiece":
            return pieces_from_files(files, engine="sentencepiece" if engine == "reference" else engine)
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise TokenizerError(
            f"a tokenizer's files are incomplete: {error!r}; there are {', '.join(sorted(files)) or 'none'}"
        ) from error
    raise TokenizerError(
        f"a tokenizer of kind {kind!r}; this version knows byte, tiktoken, huggingface and sentencepiece. "
        f"Made by a later headrace? Update"
    )


def _from_file(path: Path, engine: Engine) -> Tokenizer:
    by_tiktoken: TiktokenEngine = "tiktoken" if engine == "reference" else engine
    for encoding in ENCODINGS:
        if path.name == f"{encoding}.tiktoken":
            return named_encoding(encoding, directory=path.parent, engine=by_tiktoken)
    if path.name in {name for pair in FILE_PAIRS for name in pair}:
        pair = find_pair(path.parent)
        if pair is None or path not in pair:
            names = " or ".join(" and ".join(pair) for pair in FILE_PAIRS)
            raise TokenizerError(f"{path}: its other half is missing; expected {names} side by side")
        return _from_pair(*pair, engine)
    data = path.read_bytes()
    if is_ranks_file(data):
        return tokenizer_of_ranks(path, data, engine=by_tiktoken)
    if path.suffix == ".tiktoken":
        raise TokenizerError(f"{path}: expected lines of a token in base 64 and its rank; got {data[:40]!r}")
    if ".model" in path.suffixes:  # Mistral's end in .model.v3
        return PieceTokenizer(
            name=path.parent.name if path.stem == "tokenizer" else path.stem,
            model=data,
            engine="sentencepiece" if engine == "reference" else engine,
        )
    if is_tekken(parsed := parse_tekken(data)):
        return tokenizer_of_tekken(path.stem, parsed, engine=by_tiktoken)
    return _from_json(path, engine)


def _from_directory(path: Path, engine: Engine) -> Tokenizer:
    if (path / DESCRIPTION).is_file():
        return tokenizer_from_files(_FilesOf(path), engine=engine)
    if (path / DEFINITION).is_file():
        return _from_json(path / DEFINITION, engine)
    for name in (MODEL, TEKKEN):
        if (path / name).is_file():
            return _from_file(path / name, engine)
    pair = find_pair(path)
    if pair is not None:
        return _from_pair(*pair, engine)
    ranks = sorted(path.glob("*.tiktoken"))
    if len(ranks) == 1:
        return _from_file(ranks[0], engine)
    raise TokenizerError(
        f"{path}: no {DEFINITION}, no {MODEL}, no {TEKKEN}, no {' and '.join(FILE_PAIRS[0])} in this directory"
        + (f", and {len(ranks)} .tiktoken files: name one" if ranks else "")
    )


class _FilesOf(Mapping[str, bytes]):
    """A directory's files by name, each read when it is taken: there may be weights of many gigabytes among them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, name: str) -> bytes:
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            raise KeyError(name) from error

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self._directory / name).is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._directory.iterdir() if path.is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _from_pair(vocab: Path, merges: Path, engine: Engine) -> Tokenizer:
    """The pair as the tokenizer.json that it means; a store carries that one."""
    return HFTokenizer(
        name=vocab.resolve().parent.name,
        definition=convert_pair(vocab, merges),
        side_files=_side_files(vocab.parent),
        engine="tokenizers" if engine == "reference" else engine,
    )


def _side_files(directory: Path) -> dict[str, bytes]:
    return {file: (directory / file).read_bytes() for file in SIDE_FILES if (directory / file).is_file()}


def _from_json(path: Path, engine: Engine) -> Tokenizer:
    return HFTokenizer(
        name=path.resolve().parent.name if path.name == DEFINITION else path.stem,
        definition=path.read_bytes(),
        side_files=_side_files(path.parent) if path.name == DEFINITION else {},
        engine="tokenizers" if engine == "reference" else engine,
    )
