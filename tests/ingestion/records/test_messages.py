"""Messages in every form that files have -> one form."""

from __future__ import annotations

import pytest

from headrace.ingestion.records.messages import (
    MessagesError,
    from_json,
    messages_of,
    strings_of,
    without_null,
)


def test_messages_of_two_fields_are_taken_as_they_are():
    messages = [{"role": "user", "content": "a"}, {"content": "b", "role": "assistant"}]
    assert messages_of(messages) == messages


def test_from_and_value_become_role_and_content():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": None}]
    assert messages_of(turns) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_a_string_is_json_and_null_members_are_left_out():
    assert messages_of('[{"role": "user", "content": "a", "name": null}]') == [
        {"role": "user", "content": "a"}
    ]
    assert without_null({"a": None, "b": [{"c": None, "d": 0}]}) == {"b": [{"d": 0}]}
    assert from_json([1]) == [1]
    with pytest.raises(MessagesError, match="no JSON"):
        from_json("[")


def test_reasoning_has_the_names_that_templates_read():
    (message,) = messages_of([{"role": "assistant", "content": "a", "reasoning": "why"}])
    assert message["reasoning_content"] == message["thinking"] == "why"


def test_an_answer_may_have_tool_calls_and_no_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    assert messages_of([call]) == [call]
    with pytest.raises(MessagesError, match="has no content"):
        messages_of([{**call, "tool_calls": []}])


def test_strings_are_found_at_every_depth():
    assert strings_of({"a": ["b", {"c": 1, "d": "e"}]}) == ["a", "b", "c", "d", "e"]
