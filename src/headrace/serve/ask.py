"""A checked body and the model -> the engine's requests, one for each choice of the answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from headrace.errors import ConfigError
from headrace.generation import DEFAULT_TOKENS, Request, SamplingOptions
from headrace.serve.bodies import ChatBody, CompletionBody, sampling_of
from headrace.serve.drive import Call
from headrace.serve.refusal import Refusal, invalid
from headrace.serve.served import Served, refusal_of

MAX_SAMPLES = 4096
"""Of one request: prompts times n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that can be made."""

    id: str
    created: int
    """Seconds since 1970."""
    chat: bool
    call: Call
    prompts: Sequence[tuple[tuple[int, ...], str]]
    """Ids and text of each prompt; choice i is of prompt i // n."""
    n: int
    echo: bool
    logprobs: bool
    stream: bool
    include_usage: bool
    usage_always: bool


def ask(body: CompletionBody | ChatBody, served: Served) -> Asked:
    """The engine's requests for a body.

    Raises:
        Refusal: it cannot be made.
    """
    if body.model is not None and body.model != served.name:
        raise Refusal(
            404,
            f"The model {body.model[:100]!r} does not exist; this server has {served.name!r}.",
            param="model",
            code="model_not_found",
        )
    chat = isinstance(body, ChatBody)
    identity = secrets.token_hex(12)
    if isinstance(body, ChatBody):
        prompts = [(served.encode_messages(body.messages), "")]
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        if limit == 0:
            raise invalid("max_completion_tokens: 0; at least 1.", "max_completion_tokens")
        room = max(1, served.context - len(prompts[0][0]))
        sampling = sampling_of(body, max_new_tokens=min(DEFAULT_TOKENS, room) if limit is None else limit)
    else:
        if body.max_tokens == 0 and not body.echo:
            raise invalid("max_tokens: 0 makes nothing unless echo is true.", "max_tokens")
        prompts = _prompts(body, served)
        sampling = sampling_of(body, max_new_tokens=body.max_tokens)
    if len(prompts) * body.n > MAX_SAMPLES:
        raise invalid(
            f"prompt: {len(prompts)} prompts with n={body.n}; at most {MAX_SAMPLES} choices a request.",
            "prompt",
        )
    requests = []
    for i, (ids, _) in enumerate(prompts):
        # Without a seed two equal prompts of a list are two different draws.
        own = sampling if body.seed is not None or i == 0 else replace(sampling, seed=sampling.seed + i)
        for sample in range(body.n):
            requests.append(_request(served, f"{identity}/{i}", sample, ids, own))
    options = body.stream_options
    return Asked(
        id=("chatcmpl-" if chat else "cmpl-") + identity,
        created=int(time.time()),
        chat=chat,
        call=Call(identity, requests),
        prompts=prompts,
        n=body.n,
        echo=not isinstance(body, ChatBody) and body.echo,
        logprobs=sampling.logprobs,
        stream=body.stream,
        include_usage=options is not None and options.include_usage,
        usage_always=options is not None and options.include_usage and options.continuous_usage_stats,
    )


def _request(
    served: Served, prompt_id: str, sample: int, ids: tuple[int, ...], sampling: SamplingOptions
) -> Request:
    request = Request(prompt_id=prompt_id, sample_index=sample, token_ids=ids, sampling=sampling, stream="")
    try:
        served.engine.check(request)
    except ConfigError as error:
        raise refusal_of(error) from error
    return request


def _prompts(body: CompletionBody, served: Served) -> list[tuple[tuple[int, ...], str]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        prompt = [prompt]
    kinds = {type(item) for item in prompt}
    if len(kinds) > 1:
        raise invalid("prompt: texts and token ids mixed in one list; give one kind.", "prompt")
    if kinds == {int}:
        prompt = [cast("list[int]", prompt)]
    found = []
    for item in prompt:
        if isinstance(item, str):
            found.append((served.encode(item, special=body.add_special_tokens) or served.encode(""), item))
        else:
            ids = tuple(cast("list[int]", item))
            found.append((ids, served.decode(ids) if body.echo else ""))
    return found
