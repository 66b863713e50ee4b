"""One sample to generate -> its tokens as they are generated, and its prediction."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.errors import ConfigError
from headrace.generation.options import SamplingOptions
from headrace.types import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sample of one prompt."""

    prompt_id: str
    sample_index: int = 0
    token_ids: tuple[int, ...]
    """The prompt; at least one id."""
    prompt: str = ""
    """The same as text, to be stored."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stream: str | None = None
    """Name of its random stream; None: prompt_id. A server gives requests with equal seeds the same name."""
    cache_scope: str = ""
    """Cached prefixes are shared by requests of one scope only; a server has one for each API key."""

    @property
    def key(self) -> tuple[str, int]:
        """The key of the stored prediction."""
        return self.prompt_id, self.sample_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token of one row."""

    request: Request
    token_id: int | None
    """None when the row ended without one."""
    text: str
    """Text that became final; may be empty."""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    prediction: Prediction | None = None
    """The whole row, with its last token."""
    prompt_logprobs: tuple[float | None, ...] | None = None
    """Of the prompt's tokens, when requested; given with the row's first token."""
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """Most likely tokens at each position of the prompt, empty at the first; when both were requested."""
    cached_tokens: int = 0
    """Tokens of the prompt that were found in the prefix cache."""


def check_prompt(request: Request, *, vocab_size: int, context: int, cache: int | None = None) -> None:
    """Refuse a prompt that has no tokens, has ids outside the vocabulary, or leaves no space for a generated token.

    Args:
        request: with its prompt.
        vocab_size: ids are below it.
        context: tokens that the model holds.
        cache: tokens that the cache holds; None: as many as the context.

    Raises:
        ConfigError: saying which.
    """
    check_token_ids(request, vocab_size=vocab_size)
    ids = request.token_ids
    max_length = context if cache is None else min(context, cache)
    if len(ids) + (request.sampling.max_new_tokens > 0) > max_length:
        # OpenAI's clients recognise a prompt that is too long by these words.
        limit = "this model's maximum context length is" if max_length == context else "the cache holds"
        raise ConfigError(
            f"prompt: {len(ids)} tokens and one to generate; {limit} {max_length} tokens. Shorten the prompt."
        )


def check_token_ids(request: Request, *, vocab_size: int) -> None:
    """Refuse a prompt that has no tokens, or ids outside the vocabulary.

    Raises:
        ConfigError: saying which.
    """
    ids = request.token_ids
    if not ids:
        raise ConfigError("prompt: no tokens. Give at least one, for example the end-of-document id.")
    if min(ids) < 0 or max(ids) >= vocab_size:
        bad = next(i for i in ids if not 0 <= i < vocab_size)
        raise ConfigError(f"prompt: token id {bad}; the model's ids are in [0, {vocab_size}).")


def error_prediction(request: Request, error: Exception | str, *, kind: str | None = None) -> Prediction:
    """The error row of a sample that could not be generated."""
    return Prediction(
        prompt_id=request.prompt_id,
        sample_index=request.sample_index,
        prompt=request.prompt,
        text="",
        token_ids=(),
        finish_reason="error",
        prompt_tokens=len(request.token_ids),
        error={"type": kind or type(error).__name__, "message": str(error)},
    )
