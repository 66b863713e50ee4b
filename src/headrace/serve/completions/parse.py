"""Checked body and model -> the engine's requests, one for each choice of the response."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from headrace.errors import ConfigError
from headrace.generation import DEFAULT_TOKENS, Request, SamplingOptions
from headrace.serve.completions.model import ServedModel, prompt_error
from headrace.serve.protocol import APIError, ChatBody, CompletionBody, bad_request, sampling_from
from headrace.serve.token_stream import TokenStream

MAX_SAMPLES = 4096
"""Choices of one request: prompts times n."""
Prompts = Sequence[tuple[tuple[int, ...], str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request that the engine can run."""

    id: str
    created: int
    """Seconds since 1970."""
    chat: bool
    tokens: TokenStream
    prompts: Prompts
    """Ids and text of each prompt; choice i continues prompt i // n."""
    n: int
    echo: bool
    logprobs: bool
    stream: bool
    include_usage: bool
    usage_always: bool
    """Whether every frame of a stream contains the usage so far."""


def parse_request(
    body: CompletionBody | ChatBody, model: ServedModel, *, cache_scope: str = ""
) -> ParsedRequest:
    """Build the engine's requests for a body.

    Args:
        body: of the request.
        model: the model.
        cache_scope: cached prefixes are shared by requests of one scope only.

    Raises:
        APIError: the model is unknown, or the engine cannot run the request.
    """
    if body.model is not None and body.model != model.name:
        raise APIError(
            404,
            f"The model {body.model[:100]!r} does not exist; this server has {model.name!r}.",
            param="model",
            code="model_not_found",
        )
    prompts, sampling = _chat(body, model) if isinstance(body, ChatBody) else _completion(body, model)
    if len(prompts) * body.n > MAX_SAMPLES:
        raise bad_request(
            f"prompt: {len(prompts)} prompts with n={body.n}; at most {MAX_SAMPLES} choices a request.",
            "prompt",
        )
    chat, identity = isinstance(body, ChatBody), secrets.token_hex(12)
    requests = []
    for i, (ids, _) in enumerate(prompts):
        # Without a seed, two equal prompts of a list are two different samples.
        own = sampling if body.seed is not None or i == 0 else replace(sampling, seed=sampling.seed + i)
        for sample in range(body.n):
            requests.append(_engine_request(model, f"{identity}/{i}", sample, ids, own, cache_scope))
    options = body.stream_options
    return ParsedRequest(
        id=("chatcmpl-" if chat else "cmpl-") + identity,
        created=int(time.time()),
        chat=chat,
        tokens=TokenStream(identity, requests),
        prompts=prompts,
        n=body.n,
        echo=isinstance(body, CompletionBody) and body.echo,
        logprobs=sampling.logprobs,
        stream=body.stream,
        include_usage=options is not None and options.include_usage,
        usage_always=options is not None and options.include_usage and options.continuous_usage_stats,
    )


def _chat(body: ChatBody, model: ServedModel) -> tuple[Prompts, SamplingOptions]:
    limit, field = body.max_completion_tokens, "max_completion_tokens"
    if limit is None:
        limit, field = body.max_tokens, "max_tokens"
    if limit == 0:
        raise bad_request(f"{field}: 0; expected at least 1.", field)
    ids = model.encode_messages(body.messages)
    left = max(1, model.context - len(ids))
    sampling = sampling_from(body, max_new_tokens=min(DEFAULT_TOKENS, left) if limit is None else limit)
    return [(ids, "")], sampling


def _completion(body: CompletionBody, model: ServedModel) -> tuple[Prompts, SamplingOptions]:
    if body.max_tokens == 0 and not body.echo:
        raise bad_request("max_tokens: 0 generates nothing unless echo is true.", "max_tokens")
    prompt = body.prompt
    if isinstance(prompt, str):
        prompt = [prompt]
    types = {type(item) for item in prompt}
    if len(types) > 1:
        raise bad_request("prompt: texts and token ids mixed in one list; give one kind.", "prompt")
    if types == {int}:
        prompt = [cast("list[int]", prompt)]
    prompts = []
    for item in prompt:
        if isinstance(item, str):
            ids = model.encode(item, special=body.add_special_tokens, split=body.split_special_tokens)
            prompts.append((ids or model.encode(""), item))
        else:
            ids = tuple(cast("list[int]", item))
            prompts.append((ids, model.decode(ids) if body.echo else ""))
    return prompts, sampling_from(body, max_new_tokens=body.max_tokens)


def _engine_request(
    model: ServedModel,
    prompt_id: str,
    sample: int,
    ids: tuple[int, ...],
    sampling: SamplingOptions,
    cache_scope: str,
) -> Request:
    request = Request(
        prompt_id=prompt_id,
        sample_index=sample,
        token_ids=ids,
        sampling=sampling,
        stream="",
        cache_scope=cache_scope,
    )
    try:
        model.engine.check(request)
    except ConfigError as error:
        raise prompt_error(error) from error
    return request
