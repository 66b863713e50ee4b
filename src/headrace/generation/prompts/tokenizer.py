"""The text of a prompt -> token ids, as transformers reads it: special tokens in the text are special.

Documents of a corpus are another matter: there special tokens stay text, see `headrace.tokens`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import orjson

from headrace.errors import ConfigError, TokenizerError
from headrace.generation.model_directory import SpecialIds
from headrace.tokens import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The name of the end of a text where the tokenizer has none, as `headrace export` writes it."""


class PromptTokenizer:
    """A model's tokenizer for prompts.

    Args:
        tokenizer: of the model.
        special_ids: around the model's texts.
    """

    def __init__(self, tokenizer: Tokenizer, special_ids: SpecialIds) -> None:
        self.tokenizer = tokenizer
        self.special_ids = special_ids

    def encode(
        self, text: str, *, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> list[int]:
        """Ids of a prompt.

        Args:
            text: of the prompt.
            add_special_tokens: add what the model's tokenizer adds to a text. An empty prompt becomes the token that
                begins a text.
            split_special_tokens: read special tokens in the text as plain text.

        Raises:
            ConfigError: the text is empty, and the model has no token that begins a text.
        """
        ids: list[int]
        if not self._may_hold_special_tokens(text):
            ids = self.tokenizer.encode(text).tolist()
        elif split_special_tokens:
            ids = self._encode_split(text)
        else:
            ids = self._encode_special(text)
        if not add_special_tokens:
            return ids
        ids = [*self.special_ids.prefix, *ids, *self.special_ids.suffix]
        if ids:
            return ids
        if self.special_ids.start is None:
            raise ConfigError(
                "prompt: empty, and this model has no token that begins a text (bos_token_id or eos_token_id in its "
                "config.json). Give some text, or token ids."
            )
        return [self.special_ids.start]

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of ids."""
        return self.tokenizer.decode(ids)

    def _may_hold_special_tokens(self, text: str) -> bool:
        if self._matches_normalized_text:
            return True
        return self._pattern is not None and self._pattern.search(text) is not None

    def _encode_split(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are plain text."""
        if (
            self._unmarked
        ):  # special tokens that tokenizer.json calls ordinary, so that `tokenizer` recognises them
            return list(self._splitter.encode(text, add_special_tokens=False).ids)
        ids: list[int] = self.tokenizer.encode(text).tolist()
        return ids

    def _encode_special(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are recognised, by the library that defines the tokenizer."""
        if self._recogniser is not None:
            return list(self._recogniser.encode(text, add_special_tokens=False).ids)
        # tiktoken and SentencePiece split a text at its special tokens before anything else.
        assert self._pattern is not None
        ids: list[int] = []
        for piece in self._pattern.split(text):
            if piece in self._special:
                ids.append(self._special[piece])
            elif piece:
                ids.extend(self.tokenizer.encode(piece).tolist())
        return ids

    @functools.cached_property
    def _files(self) -> Mapping[str, bytes]:
        return self.tokenizer.files()

    @functools.cached_property
    def _added_tokens(self) -> list[dict[str, Any]]:
        """The added tokens of tokenizer.json; none where the tokenizer is of another kind."""
        if "tokenizer.json" not in self._files:
            return []
        added: list[dict[str, Any]] = orjson.loads(self._files["tokenizer.json"]).get("added_tokens") or []
        return [token for token in added if token.get("special")]

    @functools.cached_property
    def _special(self) -> Mapping[str, int]:
        """Special tokens and their ids."""
        special = {token["content"]: int(token["id"]) for token in self._added_tokens}
        description = orjson.loads(self._files.get("headrace-tokenizer.json", b"{}"))
        special |= description.get("special_tokens") or {}
        if description.get("kind") == "sentencepiece":
            special |= _control_symbols(self._files)
        if self._reference is not None:
            for name in _names_of_special_tokens(self._files):
                number = self._reference.token_to_id(name)
                if number is not None:
                    special.setdefault(name, number)
        end = self.tokenizer.eos_id
        if end not in special.values() and end in (*self.special_ids.eos, self.special_ids.start):
            special.setdefault(END_OF_TEXT, end)  # the model was trained with an id above the vocabulary
        return special

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        names = sorted(self._special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    @functools.cached_property
    def _matches_normalized_text(self) -> bool:
        """Whether a special token can match text that differs from its name, for example in case."""
        return any(token.get("normalized") for token in self._added_tokens)

    @functools.cached_property
    def _unmarked(self) -> list[str]:
        """Special tokens that the model's directory names, and tokenizer.json does not mark as special."""
        marked = {token["content"] for token in self._added_tokens}
        return [] if self._reference is None else [name for name in self._special if name not in marked]

    @functools.cached_property
    def _reference(self) -> Any:
        """The tokenizer of tokenizer.json by the `tokenizers` library; None for other kinds."""
        return self._load_reference() if "tokenizer.json" in self._files else None

    @functools.cached_property
    def _recogniser(self) -> Any:
        """The same, with every special token that the model's directory names."""
        if self._reference is None:
            return None
        from tokenizers import AddedToken

        recogniser = self._load_reference()
        recogniser.add_special_tokens([AddedToken(name, special=True) for name in self._unmarked])
        return recogniser

    @functools.cached_property
    def _splitter(self) -> Any:
        """The same, but it reads special tokens as text."""
        from tokenizers import AddedToken

        splitter = self._load_reference()
        splitter.add_special_tokens([AddedToken(name, special=True) for name in self._unmarked])
        splitter.encode_special_tokens = True
        return splitter

    def _load_reference(self) -> Any:
        from tokenizers import Tokenizer as Reference

        try:
            reference = Reference.from_str(self._files["tokenizer.json"].decode())
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{self.tokenizer.name}: not a tokenizer.json: {error}") from error
        reference.no_truncation()
        reference.no_padding()
        return reference


def _names_of_special_tokens(files: Mapping[str, bytes]) -> list[str]:
    """Special tokens that are named beside tokenizer.json: transformers adds those that the vocabulary has."""
    names = []
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in orjson.loads(files.get(file, b"{}")).items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str) and content:
                names.append(content)
    return names


def _control_symbols(files: Mapping[str, bytes]) -> Mapping[str, int]:
    """Names and ids of a SentencePiece model's control symbols."""
    from sentencepiece import SentencePieceProcessor

    model = next(data for name, data in files.items() if name.endswith(".model"))
    pieces = SentencePieceProcessor(model_proto=model)
    return {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size()) if pieces.is_control(i)}
