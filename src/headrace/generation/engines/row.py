"""The sampled tokens of a request -> its text, its finish reason, its prediction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from headrace.generation.detokenizer import Detokenizer
from headrace.generation.request import Request, Token, error_prediction
from headrace.generation.sampling.rng import stream_key
from headrace.generation.sampling.sampler import SampledToken, SamplerState
from headrace.sink import LOWEST_LOGPROB
from headrace.types import Prediction

LOGITS_ROWS = 256
"""Rows of logits computed at the same time; bounds the memory for log-probabilities of prompts."""


class Row:
    """State of one sample while it is generated.

    Args:
        request: the sample.
        table: bytes of each id.
        cached_tokens: tokens of the prompt that were found in the prefix cache.
    """

    __slots__ = (
        "cached",
        "cached_tokens",
        "logprobs",
        "prompt_logprobs",
        "prompt_top",
        "request",
        "sampler",
        "stream",
        "tokens",
        "top",
    )

    def __init__(self, request: Request, table: Sequence[bytes], *, cached_tokens: int = 0) -> None:
        self.request = request
        self.cached_tokens = cached_tokens
        self.sampler = SamplerState(
            sampling=request.sampling,
            key=stream_key(
                request.sampling.seed,
                request.prompt_id if request.stream is None else request.stream,
                request.sample_index,
            ),
            prompt_ids=request.token_ids,
        )
        self.stream = Detokenizer(table, stop=request.sampling.stop)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.prompt_logprobs: tuple[float | None, ...] | None = None
        self.prompt_top: tuple[tuple[tuple[int, float], ...], ...] | None = None
        self.cached = 0
        """Tokens of this row whose keys and values are in the cache."""

    def score_prompt(self, x_TW: Tensor, logits_of: Callable[[Tensor], Tensor]) -> None:
        """Log-probability of each prompt token given those before it.

        Args:
            x_TW: hidden states of the prompt's tokens.
            logits_of: hidden states [K, W] to logits [K, V].
        """
        ids = torch.tensor(self.request.token_ids[1:], dtype=torch.int64, device=x_TW.device)
        scores: list[float | None] = [None]
        top: list[tuple[tuple[int, float], ...]] = [()]
        num_top = self.request.sampling.top_logprobs
        for start in range(0, len(ids), LOGITS_ROWS):
            chunk = ids[start : start + LOGITS_ROWS]
            logprobs = torch.log_softmax(logits_of(x_TW[start : start + len(chunk)]).float(), dim=-1)
            found = logprobs.gather(1, chunk[:, None])[:, 0]
            scores.extend(max(value, LOWEST_LOGPROB) for value in found.tolist())
            if num_top:
                values, likeliest = logprobs.topk(min(num_top, logprobs.shape[1]))
                pairs = zip(likeliest.tolist(), values.tolist(), strict=True)
                top.extend(tuple(zip(*pair, strict=True)) for pair in pairs)
        self.prompt_logprobs = tuple(scores)
        self.prompt_top = tuple(top) if num_top else None

    def take(self, sampled: SampledToken, *, eos_ids: Collection[int], max_length: int) -> Token:
        """Add a token; the last one has the prediction.

        Args:
            sampled: the token; below 0 where the logits were not finite.
            eos_ids: ids that end the row.
            max_length: of the row, prompt included.
        """
        request, sampling = self.request, self.request.sampling
        if sampled.token_id < 0:
            error = error_prediction(request, "the model's logits are not finite numbers", kind="WorkerError")
            return Token(request=request, token_id=None, text="", prediction=error)
        if sampling.max_new_tokens == 0:  # the request is for the prompt's log-probabilities only
            return Token(
                request=request,
                token_id=None,
                text="",
                prediction=self._finished("length"),
                prompt_logprobs=self.prompt_logprobs,
                prompt_top=self.prompt_top,
                cached_tokens=self.cached_tokens,
            )
        first = not self.tokens
        self.tokens.append(sampled.token_id)
        self.sampler.index += 1
        self.sampler.counts[sampled.token_id] += 1
        if sampled.logprob is not None and sampling.logprobs:
            self.logprobs.append(max(sampled.logprob, LOWEST_LOGPROB))
        if sampling.top_logprobs:
            self.top.append(sampled.top)
        ended = sampled.token_id in eos_ids and not sampling.ignore_eos
        text = "" if ended else self.stream.push(sampled.token_id)
        reason = None
        if ended or self.stream.stopped is not None:
            reason = "stop"
        elif len(self.tokens) >= sampling.max_new_tokens or self.cached + 1 >= max_length:
            reason = "length"
        prediction = None
        if reason is not None:
            text += self.stream.finish()
            prediction = self._finished(reason)
        return Token(
            request=request,
            token_id=sampled.token_id,
            text=text,
            logprob=sampled.logprob,
            top=sampled.top,
            prediction=prediction,
            prompt_logprobs=self.prompt_logprobs if first else None,
            prompt_top=self.prompt_top if first else None,
            cached_tokens=self.cached_tokens,
        )

    def _finished(self, reason: str) -> Prediction:
        request = self.request
        return Prediction(
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt=request.prompt,
            text=self.stream.text,
            token_ids=tuple(self.tokens),
            finish_reason=reason,
            logprobs=tuple(self.logprobs) if request.sampling.logprobs else None,
            prompt_logprobs=self.prompt_logprobs,
            top_logprobs=tuple(self.top) if request.sampling.top_logprobs else None,
            prompt_tokens=len(request.token_ids),
            completion_tokens=len(self.tokens),
        )
