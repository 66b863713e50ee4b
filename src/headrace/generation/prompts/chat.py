"""A conversation -> a prompt, by the template that the model's directory brings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError

DEFAULT_TOKENS = 1024
"""Of an answer to messages when the request names no limit; a cache row is as long as its limit."""


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

    def encode(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation.

        Args:
            turns: `role` and `content` of each.
            generation_prompt: end with what begins the model's own turn.

        Raises:
            ConfigError: the template does not take these turns.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                list(turns), add_generation_prompt=generation_prompt, tokenize=False
            )
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # a template raises whatever its author chose
            raise ConfigError(f"messages: the model's chat template refuses them: {error}") from error
        return ids


class ChatEncoder:
    """Messages of prompts -> ids; the template is loaded when the first conversation comes.

    Args:
        model: a run or a Hugging Face directory.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self._model = Path(model)
        self._template: ChatTemplate | None = None
        self._loaded = False

    def __call__(self, messages: Sequence[Any]) -> list[int]:
        """Ids of a conversation.

        Raises:
            ConfigError: the model has no template, or these are no messages.
        """
        if not self._loaded:
            self._template, self._loaded = load_chat_template(self._model), True
        if self._template is None:
            raise ConfigError(
                "messages: the model has no chat template: it was trained to continue text. Give prompt instead."
            )
        return self._template.encode([_turn(message) for message in messages])


def load_chat_template(path: Path) -> ChatTemplate | None:
    """The template of a model directory; None where it has none.

    Raises:
        ConfigError: there is one, but transformers cannot read the tokenizer.
    """
    about = path / "tokenizer_config.json"
    has_file = (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file()
    if not has_file and not (about.is_file() and b'"chat_template"' in about.read_bytes()):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: has a chat template, but transformers cannot read its tokenizer ({error})."
        ) from error
    tokenizer.model_max_length = 1 << 60  # a prompt that is too long is refused by us, not warned about
    return ChatTemplate(tokenizer) if getattr(tokenizer, "chat_template", None) else None


def _turn(message: object) -> dict[str, str]:
    """One message as templates take it: its content as one text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ConfigError(
            f"messages: {_short(message)} is no message; wanted an object with role and content."
        )
    unknown = [name for name in message if name not in ("role", "content", "name")]
    if any(message[name] is not None for name in unknown):
        raise ConfigError(f"messages: field {unknown[0]!r} is not known here; leave it out.")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        content = None if None in texts else "".join(map(str, texts))
    if not isinstance(content, str):
        raise ConfigError(f"messages: the content of {_short(message)} is no text.")
    return {"role": message["role"], "content": content}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
