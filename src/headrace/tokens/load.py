"""A tokenizer's name, path or files -> the tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
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

Engine: TypeAlias = Literal["auto", "fast", "reference"]


def load_tokenizer(spec: str | os.PathLike[str], *, engine: Engine = "auto") -> Tokenizer:
    """A tokenizer by name or path; nothing is downloaded.

    Args:
        spec: "byte"; "gpt2", "cl100k_base" or "o200k_base" (tiktoken's files must be present, see
            TIKTOKEN_CACHE_DIR); a tokenizer.json; a Hugging Face directory; a SentencePiece .model file;
            a store's tokenizer/ directory.
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
            f"{name}: no such tokenizer. Wanted: byte, {', '.join(ENCODINGS)}, or the path of a "
            f"tokenizer.json, a Hugging Face directory or a SentencePiece .model"
        )
    for encoding in ENCODINGS:
        if path.name == f"{encoding}.tiktoken":
            return named_encoding(
                encoding, directory=path.parent, engine="tiktoken" if engine == "reference" else engine
            )
    if path.suffix == ".model":
        return PieceTokenizer(
            name=path.parent.name if path.stem == "tokenizer" else path.stem,
            model=path.read_bytes(),
            engine="sentencepiece" if engine == "reference" else engine,
        )
    return _from_json(path, engine)


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


def _from_directory(path: Path, engine: Engine) -> Tokenizer:
    if (path / DESCRIPTION).is_file():
        return tokenizer_from_files(
            {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}, engine=engine
        )
    if (path / DEFINITION).is_file():
        return _from_json(path / DEFINITION, engine)
    if (path / MODEL).is_file():
        return PieceTokenizer(
            name=path.name,
            model=(path / MODEL).read_bytes(),
            engine="sentencepiece" if engine == "reference" else engine,
        )
    raise TokenizerError(f"{path}: no {DEFINITION} and no {MODEL} in this directory")


def _from_json(path: Path, engine: Engine) -> Tokenizer:
    side_files = {
        file: (path.parent / file).read_bytes() for file in SIDE_FILES if (path.parent / file).is_file()
    }
    return HFTokenizer(
        name=path.resolve().parent.name if path.name == DEFINITION else path.stem,
        definition=path.read_bytes(),
        side_files=side_files if path.name == DEFINITION else {},
        engine="tokenizers" if engine == "reference" else engine,
    )
