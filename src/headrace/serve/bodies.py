"""JSON bodies -> checked values; what is not known here is refused, never passed over.

Source: OpenAI's API reference for completions and chat completions; top_k, min_p, repetition_penalty,
ignore_eos and add_special_tokens are the extensions that other servers have by these names.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from headrace.errors import ConfigError
from headrace.generation import SamplingOptions
from headrace.serve.refusal import Refusal, invalid

Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=1, le=128)]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Text = Annotated[str, Meta(min_length=1)]
MAX_STOPS = 16
MAX_LOGPROBS = 20
DEFAULT_MAX_TOKENS = 16
COLDEST = 1e-5
"""Below it is greedy: a logit divided by less can be infinite."""


class StreamOptions(Struct, forbid_unknown_fields=True):
    """What a stream says beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class SamplingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What completions and chat completions have in common."""

    model: str | None = None
    temperature: Temperature = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    n: Count = 1
    stop: Text | list[Text] | None = None
    seed: Seed | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionBody(SamplingFields):
    """POST /v1/completions."""

    prompt: str | Annotated[list[Id | str | Annotated[list[Id], Meta(min_length=1)]], Meta(min_length=1)]
    """A text, its ids, or a list of either."""
    max_tokens: Tokens = DEFAULT_MAX_TOKENS
    echo: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Count | None = None
    add_special_tokens: bool = True


class TextPart(Struct, forbid_unknown_fields=True):
    """A piece of a message."""

    type: str
    text: str


class Message(Struct, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Text
    content: str | list[TextPart] | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


class TokenizeBody(Struct, forbid_unknown_fields=True):
    """POST /tokenize: a text, or messages by the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Struct, forbid_unknown_fields=True):
    """POST /detokenize."""

    tokens: list[Id]
    model: str | None = None


class BatchBody(Struct, forbid_unknown_fields=True):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, Any] | None = None


# Fields that change nothing when they hold one of these values; with another value they are refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
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
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "modalities": (["text"],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (-1,),
    "extra_body": ({},),
}

T = TypeVar("T", bound=Struct)


def parse(data: bytes, kind: type[T]) -> T:
    """A request's body.

    Raises:
        Refusal: 400, naming the field.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}.", code="invalid_json") from error
    return parse_fields(fields, kind)


def parse_fields(fields: object, kind: type[T]) -> T:
    """The same, of JSON that is decoded already."""
    if not isinstance(fields, dict):
        raise invalid(f"The body is a JSON {_json_name(fields)}; wanted an object.", code="invalid_json")
    known = kind.__struct_fields__
    taken = {}
    for name, value in fields.items():
        if value is None:
            continue  # OpenAI's clients send null for "not given"
        if name not in known:
            if any(value == neutral and type(value) is type(neutral) for neutral in NEUTRAL.get(name, ())):
                continue
            if name in NEUTRAL:
                raise invalid(
                    f"{name}: {_short(value)} is not supported here; leave it out.",
                    name,
                    code="unsupported_value",
                )
            raise invalid(f"Unrecognized request argument supplied: {name}.", name, code="unknown_parameter")
        taken[name] = value
    try:
        return msgspec.convert(taken, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        name = path.strip("`").removeprefix("$.").partition(".")[0].partition("[")[0] or None
        if name in (None, "$") and "required field" in message:
            name = message.rpartition("field ")[2].strip("`")
        where = f"{name}: " if name else ""
        raise invalid(f"{where}{message[:300]}.", name, code="invalid_value") from error


def sampling_of(body: CompletionBody | ChatBody, *, max_new_tokens: int) -> SamplingOptions:
    """How the engine is to sample for a request.

    Raises:
        Refusal: a value without meaning.
    """
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > MAX_STOPS:
        raise invalid(f"stop: {len(stop)} strings; at most {MAX_STOPS}.", "stop")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options: only for stream=true.", "stream_options")
    if isinstance(body, CompletionBody):
        if body.best_of not in (None, body.n):
            raise invalid(
                f"best_of: {body.best_of} with n={body.n}; this server makes exactly n choices. "
                "Leave best_of out, ask for n with logprobs and choose.",
                "best_of",
                code="unsupported_value",
            )
        logprobs, top, echo = body.logprobs is not None, body.logprobs or 0, body.echo
    else:
        if body.top_logprobs is not None and not body.logprobs:
            raise invalid("top_logprobs: only with logprobs=true.", "top_logprobs")
        logprobs, top, echo = body.logprobs, body.top_logprobs or 0, False
    try:
        return SamplingOptions(
            max_new_tokens=max_new_tokens,
            temperature=0.0 if body.temperature < COLDEST else body.temperature,
            top_k=None if body.top_k in (None, -1, 0) else body.top_k,
            top_p=None if body.top_p == 1.0 else body.top_p,
            min_p=body.min_p or None,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            stop=stop,
            ignore_eos=body.ignore_eos,
            seed=random.getrandbits(62) if body.seed is None else body.seed,
            logprobs=logprobs,
            prompt_logprobs=echo and logprobs,
            top_logprobs=top,
        )
    except ConfigError as error:
        raise Refusal(400, str(error)) from error


def schemas() -> Mapping[str, Any]:
    """JSON schemas of all bodies, for the OpenAPI document."""
    kinds = (CompletionBody, ChatBody, TokenizeBody, DetokenizeBody, BatchBody)
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return components


def _json_name(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {list: "array", str: "string", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
