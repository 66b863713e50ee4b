"""JSON bodies -> checked values; a field that is not known here is an error, never ignored.

Source: OpenAI's API reference for completions and chat completions; top_k, min_p, repetition_penalty,
ignore_eos, add_special_tokens and split_special_tokens are extensions that other servers have by the same names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from headrace.errors import ConfigError
from headrace.generation import NEUTRAL_FIELDS, SamplingOptions
from headrace.serve.protocol.errors import APIError, bad_request

Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
ChoiceCount = Annotated[int, Meta(ge=1, le=128)]
TokenCount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
NonEmpty = Annotated[str, Meta(min_length=1)]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_DEPTH = 64
"""Of nested arrays and objects in a body."""
DEFAULT_MAX_TOKENS = 16
GREEDY_BELOW = 1e-5
"""A temperature below this is greedy decoding: a logit divided by less can be infinite."""


class StreamOptions(Struct, forbid_unknown_fields=True):
    """What a stream contains besides its text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields that completions and chat completions have in common."""

    model: str | None = None
    temperature: Temperature = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Probability | None = None
    n: ChoiceCount = 1
    stop: NonEmpty | list[NonEmpty] | None = None
    seed: Seed | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionBody(SamplingFields):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[TokenId | str | Annotated[list[TokenId], Meta(min_length=1)]], Meta(min_length=1)]
    )
    """A text, its token ids, or a list of either."""
    max_tokens: TokenCount = DEFAULT_MAX_TOKENS
    echo: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: ChoiceCount | None = None
    add_special_tokens: bool = True
    split_special_tokens: bool = False


class ContentPart(Struct, forbid_unknown_fields=True):
    """One part of a message's content: a text, or the text of a refusal."""

    type: str
    text: str | None = None
    refused: str | None = msgspec.field(name="refusal", default=None)
    annotations: list[Any] | None = None
    cache_control: dict[str, Any] | None = None


class ChatMessage(Struct, forbid_unknown_fields=True):
    """One turn of a conversation. The fields of an answer's message are taken as they come."""

    role: NonEmpty
    content: str | list[ContentPart] | None = None
    refused: str | None = msgspec.field(name="refusal", default=None)
    name: str | None = None
    annotations: list[Any] | None = None
    cache_control: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The content as one string; a refusal is what the assistant wrote in place of a content."""
        if isinstance(self.content, str):
            return self.content or self.refused or ""
        parts = self.content or []
        return "".join(part.text or part.refused or "" for part in parts) or self.refused or ""


class ChatBody(SamplingFields):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


class TokenizeBody(Struct, forbid_unknown_fields=True):
    """Body of POST /tokenize: a text, or messages for the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    add_special_tokens: bool = True
    split_special_tokens: bool = False
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Struct, forbid_unknown_fields=True):
    """Body of POST /detokenize."""

    tokens: list[TokenId]
    model: str | None = None


class BatchBody(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **NEUTRAL_FIELDS,
    "top_logprobs": (0,),
    "include_obfuscation": (False,),
    "audio": (),
    "output_expires_after": (),
}
"""Fields that change nothing when they have one of these values; with another value they are refused."""

T = TypeVar("T", bound=Struct)


def parse_body(data: bytes, schema: type[T]) -> T:
    """Decode and check a request's body; a leading byte order mark is ignored (RFC 8259, section 8.1).

    Raises:
        APIError: 400, naming the field.
    """
    try:
        fields = orjson.loads(data.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    return parse_fields(fields, schema)


def parse_fields(fields: object, schema: type[T]) -> T:
    """Check a body that is decoded already.

    Raises:
        APIError: 400, naming the field.
    """
    if not isinstance(fields, dict):
        raise bad_request(
            f"The body is a JSON {_json_type(fields)}; expected an object.", code="invalid_json"
        )
    known: dict[str, Any] = _without_nulls(fields)
    for name in [name for name in known if name not in schema.__struct_fields__]:
        _check_neutral(name, known.pop(name))
    for name, value in _nested(known):
        for other in [other for other in value if other not in _NESTED[name]]:
            _check_neutral(other, value.pop(other), prefix=f"{name}.")
    try:
        body = msgspec.convert(known, schema)
    except msgspec.ValidationError as error:
        raise _invalid_value(error) from error
    for i, message in enumerate(getattr(body, "messages", None) or []):
        _check_parts(message, where=f"messages[{i}]")
    return body


_NESTED = {
    "messages[]": ChatMessage.__struct_encode_fields__,
    "stream_options": StreamOptions.__struct_fields__,
}


def _nested(fields: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects inside a body whose unknown fields may be neutral ones."""
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            yield "messages[]", message
    if isinstance(fields.get("stream_options"), dict):
        yield "stream_options", fields["stream_options"]


def _check_neutral(name: str, value: object, *, prefix: str = "") -> None:
    """Accept a field that changes nothing.

    Raises:
        APIError: the field is unknown, or would change the answer.
    """
    if any(value == neutral and type(value) is type(neutral) for neutral in NEUTRAL.get(name, ())):
        return
    param = prefix.removesuffix(".").removesuffix("[]") or name
    if name in NEUTRAL:
        raise bad_request(
            f"{prefix}{name}: {_short(value)} is not supported here; leave it out.",
            param,
            code="unsupported_value",
        )
    raise bad_request(
        f"Unrecognized request argument supplied: {prefix}{name}.", param, code="unknown_parameter"
    )


def _check_parts(message: ChatMessage, *, where: str) -> None:
    """Refuse content parts that are no text.

    Raises:
        APIError: a part of another type, or without its text.
    """
    if not isinstance(message.content, list):
        return
    for i, part in enumerate(message.content):
        at = f"{where}.content[{i}]"
        if part.type not in ("text", "refusal"):
            raise bad_request(
                f"{at}.type: {part.type[:50]!r}; this server reads parts of type 'text'.",
                "messages",
                code="unsupported_value",
            )
        if (part.text if part.type == "text" else part.refused) is None:
            raise bad_request(
                f"{at}: a part of type {part.type!r} needs the field {part.type!r}.", "messages"
            )


def _without_nulls(value: Any, depth: int = 0) -> Any:
    """The same value without null fields at any depth: OpenAI's clients send null for "not given"."""
    if depth > MAX_DEPTH:
        raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
    if isinstance(value, dict):
        return {name: _without_nulls(inner, depth + 1) for name, inner in value.items() if inner is not None}
    if isinstance(value, list) and any(isinstance(inner, (dict, list)) for inner in value):
        return [_without_nulls(inner, depth + 1) for inner in value]
    return value


def _invalid_value(error: msgspec.ValidationError) -> APIError:
    message, _, path = str(error).partition(" - at ")
    path = path.strip("`").removeprefix("$.")
    name = path.partition(".")[0].partition("[")[0] or None
    if name in (None, "$") and "required field" in message:
        name = path = message.rpartition("field ")[2].strip("`")
    where = f"{path}: " if name else ""
    return bad_request(f"{where}{message[:300]}.", name, code="invalid_value")


def sampling_from(body: CompletionBody | ChatBody, *, max_new_tokens: int) -> SamplingOptions:
    """Sampling parameters of a request.

    Raises:
        APIError: a combination of fields that has no meaning.
    """
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > MAX_STOPS:
        raise bad_request(f"stop: {len(stop)} strings; at most {MAX_STOPS}.", "stop")
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options: only with stream=true.", "stream_options")
    if isinstance(body, CompletionBody):
        if body.best_of not in (None, body.n):
            raise bad_request(
                f"best_of: {body.best_of} with n={body.n}; this server makes exactly n choices. "
                "Leave best_of out, ask for n with logprobs and choose.",
                "best_of",
                code="unsupported_value",
            )
        logprobs, top, echo = body.logprobs is not None, body.logprobs or 0, body.echo
    else:
        if body.top_logprobs is not None and not body.logprobs:
            raise bad_request("top_logprobs: only with logprobs=true.", "top_logprobs")
        logprobs, top, echo = body.logprobs, body.top_logprobs or 0, False
    try:
        return SamplingOptions(
            max_new_tokens=max_new_tokens,
            temperature=0.0 if body.temperature < GREEDY_BELOW else body.temperature,
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
        raise APIError(400, str(error)) from error


def json_schemas() -> Mapping[str, Any]:
    """JSON schemas of all bodies, for the OpenAPI document."""
    bodies = (CompletionBody, ChatBody, TokenizeBody, DetokenizeBody, BatchBody)
    _, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    return components


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {list: "array", str: "string", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
