"""One sample to be made -> what happened to it, token by token."""

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
    """The same as text, for the record."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stream: str | None = None
    """Names its random stream where prompt_id does not: two requests of a server with one seed are one answer."""

    @property
    def key(self) -> tuple[str, int]:
        """What a stored prediction is known by."""
        return self.prompt_id, self.sample_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of one row, as it is made."""

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
    """Of the prompt's tokens, when asked for; with the row's first token."""
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """Likeliest tokens at each place of the prompt, the first's empty; when both were asked for."""


def check_prompt(request: Request, *, vocab_size: int, context: int, cache: int | None = None) -> None:
    """Refuse a prompt that has no tokens, foreign ids, or no room for what is to be generated.

    Args:
        request: with its prompt.
        vocab_size: ids are below it.
        context: tokens that the model holds.
        cache: tokens that the cache holds; None: as many as the model.

    Raises:
        ConfigError: saying which.
    """
    ids = request.token_ids
    if not ids:
        raise ConfigError("prompt: no tokens. Give at least one, for example the end-of-document id.")
    if min(ids) < 0 or max(ids) >= vocab_size:
        bad = next(i for i in ids if not 0 <= i < vocab_size)
        raise ConfigError(f"prompt: token id {bad}; the model's ids are in [0, {vocab_size}).")
    room = context if cache is None else min(context, cache)
    if len(ids) + (request.sampling.max_new_tokens > 0) > room:
        # OpenAI's clients know a prompt that is too long by the first words of this limit.
        limit = "this model's maximum context length is" if room == context else "the cache holds"
        raise ConfigError(
            f"prompt: {len(ids)} tokens and one to generate; {limit} {room} tokens. Shorten the prompt."
        )


def error_prediction(request: Request, error: Exception | str, *, kind: str | None = None) -> Prediction:
    """The row that stands for a sample which could not be made."""
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
