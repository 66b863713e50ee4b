"""A record's value -> the messages of a conversation, in one form whatever file they came from; or what is wrong."""

from __future__ import annotations

from typing import Any

import orjson

_ROLES = {"human": "user", "gpt": "assistant"}
"""Names of roles in lists of {"from", "value"}."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning, as transformers takes them; templates read the first, and some the second."""


class MessagesError(ValueError):
    """Not the messages of a conversation."""


def messages_of(value: Any) -> list[dict[str, Any]]:
    """The messages, each with a role and a content.

    Values that are null are left out: columnar files have every field in every message. A list of {"from", "value"}
    gets the names of {"role", "content"}. A string is JSON, as in a CSV column.

    Raises:
        MessagesError: names the message.
    """
    messages = from_json(value)
    if not isinstance(messages, list) or not messages:
        what = "an empty list" if messages == [] else f"no list but {type(messages).__name__}"
        raise MessagesError(f"its messages are {what}")
    return [_message(one, f"message {i} of {len(messages)}") for i, one in enumerate(messages, 1)]


def from_json(value: Any) -> Any:
    """The value, or, where it is a string, the value whose JSON it is.

    Raises:
        MessagesError: a string that is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MessagesError(f"a string that is no JSON: {error.msg}") from None


def without_null(value: Any) -> Any:
    """The value without the members of its objects that are null."""
    if isinstance(value, dict):
        return {key: without_null(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_null(one) for one in value]
    return value


def strings_of(value: Any) -> list[str]:
    """All strings inside a value."""
    strings: list[str] = []
    _add_strings(value, strings)
    return strings


def strings_of_plain(messages: list[dict[str, Any]]) -> list[str] | None:
    """The roles and contents of messages that have nothing else; None where one has, or a content is no string."""
    strings: list[str] = []
    for message in messages:
        if len(message) != 2 or type(message["content"]) is not str:
            return None
        strings += (message["role"], message["content"])
    return strings


def _add_strings(value: Any, strings: list[str]) -> None:
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, dict):
        for key, one in value.items():
            _add_strings(key, strings)
            _add_strings(one, strings)
    elif isinstance(value, list):
        for one in value:
            _add_strings(one, strings)


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise MessagesError(f"{where} is no object but {type(message).__name__}")
    if "from" in message and "role" not in message:
        role = message["from"]
        named = {"role": _ROLES.get(role, role) if isinstance(role, str) else role}
        message = {**named, "content": message.get("value"), **_others(message, ("from", "value"))}
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise MessagesError(f"{where} has no role; its fields are: {', '.join(map(str, message)) or 'none'}")
    if not isinstance(content, str | list) and not (content is None and message.get("tool_calls")):
        got = "no content" if content is None else f"a content that is {type(content).__name__}"
        raise MessagesError(f"{where}, of role {role!r}, has {got}; expected a string")
    values: dict[str, Any] = message
    if not (len(message) == 2 and isinstance(content, str)):  # most messages need no change
        values = {"role": role, "content": content, **without_null(_others(message, ("role", "content")))}
        values["content"] = without_null(content)
        reasoning = next((values[name] for name in _REASONING if name in values), None)
        if reasoning is not None:
            values = {"thinking": reasoning, **values, "reasoning_content": reasoning}
    return values


def _others(message: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in names}
