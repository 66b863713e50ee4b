"""Model directory -> an engine, prompts as ids, ids as text, messages as a prompt: what responses need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import orjson

from headrace.errors import ConfigError, HeadraceError
from headrace.generation import PrefixCacheOptions
from headrace.paths import model_name, split_checkpoint_name
from headrace.serve.protocol import APIError, ChatMessage, bad_request
from headrace.storage import Progress


class ServedModel:
    """The one model of a server. Immutable: every thread may read it.

    Args:
        model: a run directory or a Hugging Face directory, or a URL of one.
        name: what clients call the model; default the directory's name.
        dtype: of the weights; "auto" as `generate` chooses it.
        device: "cpu", "cuda" or "auto".
        batch_size: samples that decode at once.
        prefix_cache: what is kept of prompts and answers that have been computed.
        progress: called as progress(bytes done, bytes in all, note) while the model is read.

    Raises:
        ConfigError: the model cannot be loaded, or its engine cannot stream.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        name: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 32,
        prefix_cache: PrefixCacheOptions = PrefixCacheOptions(),  # noqa: B008  # frozen
        progress: Progress | None = None,
    ) -> None:
        # With torch, which takes seconds: the server answers before.
        from headrace.generation import EncoderDecoderEngine, NativeEngine, load_chat_template, load_engine
        from headrace.model import fetch_model

        self.name = name or model_name(model)
        fetched = fetch_model(model, progress=progress)
        path, _ = split_checkpoint_name(fetched)
        loaded = load_engine(
            fetched,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            prefix_cache=replace(prefix_cache, keep_answers=True),
            progress=progress,
        )
        if not isinstance(loaded.engine, NativeEngine | EncoderDecoderEngine):
            raise ConfigError(f"serve: {path}: its engine cannot run step by step, so it cannot stream.")
        self.engine = loaded.engine
        self.dtype, self.fingerprint = loaded.dtype, loaded.fingerprint
        self.tokenizer_fingerprint = loaded.tokenizer_fingerprint
        self.batch_size = batch_size
        self.vocab_size, self.context = self.engine.vocab_size, self.engine.context
        self._prompts = loaded.prompt_tokenizer
        self.tokenizer = loaded.prompt_tokenizer.tokenizer
        self._special = _special_tokens(path)
        ends = loaded.prompt_tokenizer.special_ids.eos
        self.eos_id = ends[0] if ends else None
        for end in ends:
            self._special.setdefault(end, "<|endoftext|>")
        self._bytes = self.tokenizer.token_bytes()
        self._names = [self._name_of(i) for i in range(self.vocab_size)]
        self._chat = load_chat_template(path)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model's directory defines how messages become a prompt."""
        return self._chat is not None

    @property
    def chat_template(self) -> str | None:
        """The source of the chat template, if there is one."""
        return None if self._chat is None else self._chat.source

    def encode(self, text: str, *, special: bool = True, split: bool = False) -> tuple[int, ...]:
        """Token ids of a prompt.

        Args:
            text: the prompt.
            special: add what the model's tokenizer adds to a text.
            split: read special tokens in the text as plain text.

        Raises:
            APIError: the text holds half a surrogate pair, or is empty and the model has no token that begins a text.
        """
        _check_unicode(text)
        try:
            return tuple(self._prompts.encode(text, add_special_tokens=special, split_special_tokens=split))
        except ConfigError as error:
            raise prompt_error(error) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens have none.

        Raises:
            APIError: an id outside the vocabulary.
        """
        bad = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if bad is not None:
            raise bad_request(f"tokens: id {bad}; the model's ids are in [0, {self.vocab_size}).", "tokens")
        table = self._bytes
        return b"".join(table[i] for i in ids if i < len(table)).decode("utf-8", errors="replace")

    def encode_messages(
        self, messages: Sequence[ChatMessage], *, generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """Token ids of a conversation by the model's own chat template.

        Raises:
            APIError: the model has no template, or the template does not take these messages.
        """
        if self._chat is None:
            raise bad_request(
                f"{self.name} has no chat template: it was trained to continue text. Use /v1/completions.",
                "messages",
                code="no_chat_template",
            )
        turns = []
        for message in messages:
            _check_unicode(message.text)
            turns.append({"role": message.role, "content": message.text})
        try:
            return tuple(self._chat.encode(turns, generation_prompt=generation_prompt))
        except ConfigError as error:
            raise bad_request(str(error), "messages") from error

    def token_name(self, token_id: int) -> str:
        r"""A token as log-probabilities show it: its text, or `bytes:\xe2` for a part of a character."""
        return self._names[token_id] if 0 <= token_id < len(self._names) else f"token_id:{token_id}"

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token's text; empty for a special token."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def _name_of(self, token_id: int) -> str:
        data = self._bytes[token_id] if token_id < len(self._bytes) else b""
        if not data:
            return self._special.get(token_id, f"<|{token_id}|>")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _special_tokens(path: Path) -> dict[int, str]:
    file = path / "tokenizer.json"
    if not file.is_file():
        return {}
    with suppress(ValueError, KeyError, TypeError):
        return {entry["id"]: entry["content"] for entry in orjson.loads(file.read_bytes())["added_tokens"]}
    return {}


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_request(
            f"The text is not valid Unicode at character {error.start}: half a surrogate pair."
        ) from error


def prompt_error(error: HeadraceError) -> APIError:
    """The response for a prompt that the engine cannot take."""
    code = "context_length_exceeded" if "Shorten the prompt" in str(error) else None
    return APIError(400, str(error), param="prompt", code=code)
