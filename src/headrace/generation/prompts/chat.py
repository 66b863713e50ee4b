"""A conversation -> token ids, by the chat template in the model's directory.

The template's own special tokens are special; the same characters in a message are text, so that a message cannot
forge the end of its turn or a turn of another role.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError
from headrace.generation.model_directory import prompt_directory
from headrace.paths import local_path, split_checkpoint_name

DEFAULT_TOKENS = 1024
"""Length of an answer to messages when the request sets no limit; a cache row is as long as its limit."""
PRIVATE_USE = range(0xF0000, 0xFFFFD)
"""Code points that no text uses; they mark the places of special tokens while a template is rendered."""


class ChatTemplate:
    """The tokenizer of a Hugging Face directory that has a chat template.

    Args:
        tokenizer: as transformers loads it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def source(self) -> str:
        """The template, in Jinja."""
        return str(self._tokenizer.chat_template)

    def encode(self, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation.

        Args:
            messages: `role` and `content` of each.
            generation_prompt: end with what begins the model's own turn.

        Raises:
            ConfigError: the template does not accept these messages.
        """
        fields = [field for message in messages for field in message.values()]
        if self._pattern is not None and any(map(self._pattern.search, fields)):
            return self._encode_protected(messages, generation_prompt=generation_prompt)
        text = self._render(messages, generation_prompt=generation_prompt)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _render(self, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=generation_prompt, tokenize=False
            )
        except Exception as error:  # a template raises whatever its author chose
            raise ConfigError(f"messages: the model's chat template refuses them: {error}") from error
        return text

    def _encode_protected(
        self, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool
    ) -> list[int]:
        """Ids of a conversation with special tokens in a message.

        The messages' special tokens are replaced by placeholders while the template is rendered. Then the template's
        own ones get the names that they have in `_renamed`, and the placeholders become text again.
        """
        assert self._pattern is not None
        first, count = PRIVATE_USE.start, len(self._names)
        placeholders = {name: chr(first + i) for i, name in enumerate(self._names)}
        renamed = {name: chr(first + count + i) for i, name in enumerate(self._names)}
        reserved = re.compile(f"[{chr(first)}-{chr(first + 2 * count)}]")
        if any(reserved.search(field) for message in messages for field in message.values()):
            raise ConfigError(
                f"messages: a message holds both a special token and a character from U+{first:X} on, which marks "
                f"special tokens here. Remove one of them."
            )
        protected = [
            {key: self._pattern.sub(lambda m: placeholders[m[0]], field) for key, field in message.items()}
            for message in messages
        ]
        text = self._render(protected, generation_prompt=generation_prompt)
        text = self._pattern.sub(lambda m: renamed[m[0]], text)
        for name, placeholder in placeholders.items():
            text = text.replace(placeholder, name)
        ids: list[int] = self._renamed.encode(text, add_special_tokens=False).ids
        return ids

    @functools.cached_property
    def _definition(self) -> dict[str, Any]:
        """The tokenizer's tokenizer.json; empty for one that is not of the `tokenizers` library."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        definition: dict[str, Any] = {} if backend is None else orjson.loads(backend.to_str())
        return definition

    @functools.cached_property
    def _names(self) -> list[str]:
        """Special tokens, longest first."""
        names = set(map(str, self._tokenizer.all_special_tokens))
        names |= {
            token["content"] for token in self._definition.get("added_tokens") or () if token["special"]
        }
        return sorted(filter(None, names), key=lambda name: (-len(name), name))

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(re.escape, self._names))) if self._names else None

    @functools.cached_property
    def _renamed(self) -> Any:
        """The tokenizer with one private character as the name of each special token, so that no text can spell it."""
        from tokenizers import Tokenizer

        first = PRIVATE_USE.start + len(self._names)
        names = {name: chr(first + i) for i, name in enumerate(self._names)}
        definition = orjson.loads(orjson.dumps(self._definition))
        try:
            for token in definition["added_tokens"]:
                token["content"] = names.get(token["content"], token["content"])
            model = definition["model"]
            if isinstance(model["vocab"], dict):
                model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
            else:
                model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
            if model.get("unk_token") in names:
                model["unk_token"] = names[model["unk_token"]]
            definition["post_processor"] = None
            return Tokenizer.from_str(orjson.dumps(definition).decode())
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(
                f"messages: a message holds the text of a special token, which this model's tokenizer cannot read as "
                f"text ({error!r}). Remove it from the message."
            ) from error


class ChatEncoder:
    """Messages of prompts -> ids; the template is loaded when the first conversation comes.

    Args:
        model: a run (RUN, RUN@STEP, RUN@best) or a Hugging Face directory.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self._model, _ = split_checkpoint_name(local_path(model, name="model"))
        self._template: ChatTemplate | None = None
        self._loaded = False

    def __call__(self, messages: Sequence[Any]) -> list[int]:
        """Ids of a conversation.

        Raises:
            ConfigError: the model has no template, or these are not messages.
        """
        if not self._loaded:
            self._template, self._loaded = load_chat_template(self._model), True
        if self._template is None:
            raise ConfigError(
                "messages: the model has no chat template: it was trained to continue text. Give prompt instead."
            )
        return self._template.encode([_checked(message) for message in messages])


def load_chat_template(path: Path) -> ChatTemplate | None:
    """The template of a model directory; None where it has none.

    Raises:
        ConfigError: there is one, but transformers cannot read the tokenizer.
    """
    path = prompt_directory(path)
    config = path / "tokenizer_config.json"
    has_file = (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file()
    if not has_file and not (config.is_file() and b'"chat_template"' in config.read_bytes()):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: has a chat template, but transformers cannot read its tokenizer ({error})."
        ) from error
    tokenizer.model_max_length = 1 << 60  # we refuse a prompt that is too long; transformers would only warn
    return ChatTemplate(tokenizer) if getattr(tokenizer, "chat_template", None) else None


def _checked(message: object) -> dict[str, str]:
    """One message in the form that templates expect: its content as one text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ConfigError(
            f"messages: {_short(message)} is not a message; expected an object with role and content."
        )
    for name, value in message.items():
        if name not in ("role", "content", "refusal", *IGNORED) and value not in (None, [], {}):
            raise ConfigError(f"messages: field {name!r} is not supported; leave it out.")
    content = message.get("content") or message.get("refusal") or message.get("content")
    if isinstance(content, list):
        texts = [_text_of_part(part) for part in content]
        content = None if None in texts else "".join(map(str, texts))
    if not isinstance(content, str):
        raise ConfigError(f"messages: the content of {_short(message)} is no text.")
    return {"role": message["role"], "content": content}


IGNORED = ("name", "annotations", "cache_control")
"""Fields of a message that change nothing here; clients send back the messages that servers gave them."""


def _text_of_part(part: object) -> str | None:
    if not isinstance(part, Mapping) or part.get("type", "text") != "text":
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
