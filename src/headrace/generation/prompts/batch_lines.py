"""A line of an OpenAI batch file -> a prompt with its own sampling.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "A", "max_tokens": 9}}
    {"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "B"}]}}

Source: OpenAI's batch API; fields that would change the answer and that are not known here make the row an
error row, never a silently different answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import ConfigError
from headrace.generation.prompts.chat import DEFAULT_TOKENS
from headrace.generation.prompts.prompt import Prompt

RENAMED = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
TAKEN = (
    "temperature", "top_k", "top_p", "min_p", "seed", "ignore_eos",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
# They change how an answer is delivered, not what it is.
PASSED_OVER = (
    "model",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "service_tier",
    "best_of",
    "echo",
)
DEFAULT_MAX_TOKENS = 16


def prompt_of_batch_line(prompt_id: str, line: Mapping[str, Any]) -> Prompt:
    """One request; a prompt with an error when it asks for what cannot be done."""
    body = line["body"]
    try:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]
        sampling, num_samples = sampling_of_body(body)
        messages = body.get("messages")
        if prompt is None and isinstance(messages, list) and messages:
            return Prompt(
                prompt_id=prompt_id, messages=tuple(messages), sampling=sampling, num_samples=num_samples
            )
        if isinstance(prompt, str):
            return Prompt(prompt_id=prompt_id, text=prompt, sampling=sampling, num_samples=num_samples)
        if isinstance(prompt, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt):
            return Prompt(
                prompt_id=prompt_id, token_ids=tuple(prompt), sampling=sampling, num_samples=num_samples
            )
        message = (
            f"request to {line.get('url', 'no url')}: fields {', '.join(body)}; "
            f"wanted one text or one list of token ids in body.prompt, or a list in body.messages."
        )
        kind = ConfigError.__name__
    except (ConfigError, TypeError) as error:
        message, kind = str(error), type(error).__name__
    return Prompt(prompt_id=prompt_id, text="", error={"type": kind, "message": message})


def sampling_of_body(body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Fields of `SamplingOptions` that a request sets, and how many samples it wants.

    Raises:
        ConfigError: a field that is not known, or that has a value of the wrong kind.
    """
    limit = DEFAULT_MAX_TOKENS if body.get("messages") is None else DEFAULT_TOKENS
    sampling: dict[str, Any] = {"max_new_tokens": limit, "temperature": 1.0}
    num_samples = 1
    for name, value in body.items():
        if value is None or name in PASSED_OVER or name in ("prompt", "messages"):
            continue
        if name in RENAMED:
            sampling[RENAMED[name]] = value
        elif name in TAKEN:
            sampling[name] = value
        elif name == "n":
            num_samples = value
        elif name == "stop":
            sampling["stop"] = (value,) if isinstance(value, str) else tuple(value)
        elif name == "logprobs":
            sampling["logprobs"] = value is not False
        elif name == "top_logprobs":
            sampling["top_logprobs"] = value
        else:
            raise ConfigError(f"request: field {name!r} is not known here; leave it out.")
    if not isinstance(num_samples, int) or not 1 <= num_samples <= 128:
        raise ConfigError(f"request: n is {num_samples!r}; it must be 1 to 128.")
    return sampling, num_samples
