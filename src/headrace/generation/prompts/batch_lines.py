"""A line of an OpenAI batch file -> a prompt with its own sampling options.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "A", "max_tokens": 9}}
    {"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "B"}]}}

A field that would change the answer and is not supported makes the row an error row, never a different answer.

Source: OpenAI's batch API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import ConfigError
from headrace.generation.prompts.chat import DEFAULT_TOKENS
from headrace.generation.prompts.prompt import Prompt

RENAMED = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
SAMPLING_FIELDS = (
    "temperature", "top_k", "top_p", "min_p", "seed", "ignore_eos",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
DELIVERY_FIELDS = ("stream", "stream_options", "user", "metadata", "best_of", "echo")
"""Fields that change how an answer is delivered, not the answer."""
NEUTRAL_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "logit_bias": ({},),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "length_penalty": (1.0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "stop_token_ids": ([],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "modalities": (["text"],),
    "truncate_prompt_tokens": (-1,),
    "extra_body": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
"""Fields that change nothing when they have one of these values."""
DEFAULT_MAX_TOKENS = 16


def prompt_of_batch_line(prompt_id: str, line: Mapping[str, Any]) -> Prompt:
    """The prompt of one line; with an error where the line asks for something that is not supported."""
    body = line["body"]
    try:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]
        sampling, num_samples = sampling_of_body(body)
        common: dict[str, Any] = {
            "prompt_id": prompt_id, "sampling": sampling, "num_samples": num_samples, "model": body.get("model"),
        }  # fmt: skip
        messages = body.get("messages")
        if prompt is None and isinstance(messages, list) and messages:
            return Prompt(messages=tuple(messages), **common)
        if isinstance(prompt, str):
            return Prompt(text=prompt, **common)
        if isinstance(prompt, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt):
            return Prompt(token_ids=tuple(prompt), **common)
        message = (
            f"request to {line.get('url', 'no url')}: fields {', '.join(body)}; "
            f"expected one text or one list of token ids in body.prompt, or a list in body.messages."
        )
        kind = ConfigError.__name__
    except (ConfigError, TypeError) as error:
        message, kind = str(error), type(error).__name__
    return Prompt(prompt_id=prompt_id, text="", error={"type": kind, "message": message})


def sampling_of_body(body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Fields of `SamplingOptions` that a request sets, and its number of samples.

    Raises:
        ConfigError: a field that is not supported, or that has a value of the wrong kind.
    """
    limit = DEFAULT_MAX_TOKENS if body.get("messages") is None else DEFAULT_TOKENS
    sampling: dict[str, Any] = {"max_new_tokens": limit, "temperature": 1.0}
    num_samples = 1
    for name, value in body.items():
        if value is None or name in DELIVERY_FIELDS or name in ("prompt", "messages", "model"):
            continue
        if name in RENAMED:
            sampling[RENAMED[name]] = value
        elif name in SAMPLING_FIELDS:
            sampling[name] = value
        elif name == "n":
            num_samples = value
        elif name == "stop":
            sampling["stop"] = (value,) if isinstance(value, str) else tuple(value)
        elif name == "logprobs":
            sampling["logprobs"] = value is not False
        elif name == "top_logprobs":
            sampling["top_logprobs"] = value
        elif not is_neutral(name, value):
            raise ConfigError(f"request: field {name!r} is not supported here; leave it out.")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise ConfigError(f"request: model is a {type(model).__name__}; it must be a name.")
    if not isinstance(num_samples, int) or not 1 <= num_samples <= 128:
        raise ConfigError(f"request: n is {num_samples!r}; it must be 1 to 128.")
    return sampling, num_samples


def is_neutral(name: str, value: object) -> bool:
    """Whether a field changes nothing with this value."""
    return any(value == neutral and type(value) is type(neutral) for neutral in NEUTRAL_FIELDS.get(name, ()))
