"""Records of every kind -> text and what is learned of it; what is malformed is named."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.ingestion import FieldOptions
from headrace.ingestion.options import ChatOptions
from headrace.ingestion.records import Fault, RecordRenderer

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}\n{% endfor %}"
)
TURNS = [
    {"role": "user", "content": "á?"},
    {"role": "assistant", "content": "één"},
    {"role": "user", "content": "b?"},
    {"role": "assistant", "content": "two"},
]


def learned(record, template=PLAIN, /, **options):
    """The learned parts of a record's text, or the fault's detail."""
    chat = None if template is None else ChatOptions(template=template, special_tokens=("</s>",))
    got = RecordRenderer(FieldOptions(chat=chat, **options)).render(record)
    if isinstance(got, Fault):
        return f"{got.reason}: {got.detail}"
    text, marks = got
    if marks is None:
        return [text.decode()]
    edges = marks.edges
    return [text[a:b].decode() for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize(
    ("template", "learn", "expected"),
    [
        (PLAIN, "answers", ["één</s>\n", "two</s>\n"]),
        (PLAIN, "last", ["two</s>\n"]),
        (MARKED, "answers", ["één</s>", "two</s>"]),
        (MARKED, "last", ["two</s>"]),
        (MARKED, "all", ["<user>á?</s><assistant>één</s><user>b?</s><assistant>two</s>"]),
    ],
)
def test_what_is_learned_of_messages(template, learn, expected):
    assert learned({"messages": TURNS}, template, learn=learn) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "2 + 2 =", "completion": " 4"}, [" 4"]),
        ({"source": "Tag", "target": "day"}, ["day"]),
        ({"question": "q", "answers": {"text": ["a", "b"], "answer_start": [0, 3]}}, ["a"]),
        ({"context": "c", "question": "q", "answers": ["a"]}, ["a"]),
        ({"context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}, [""]),
        ({"prompt": TURNS[:3], "completion": TURNS[3:]}, ["two</s>\n"]),
        ({"text": "all", "messages": TURNS}, ["all"]),
        ({"text": None, "messages": TURNS[:2]}, ["één</s>\n"]),
    ],
)
def test_records_are_recognised_by_their_fields(record, expected):
    assert learned(record) == expected


def test_other_names_of_fields_are_given_by_option():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert learned({"conversations": turns}, names=("messages=conversations",)) == ["b</s>\n"]
    names = ("prompt=instruction", "completion=output")
    assert learned({"instruction": "i", "output": "o"}, names=names) == ["o"]
    with pytest.raises(ConfigError, match="FIELD=NAME"):
        FieldOptions(names=("turns=conversations",))


def test_messages_are_taken_before_the_text_where_it_is_asked_for():
    assert learned({"text": "all", "messages": TURNS}, record="messages", learn="last") == ["two</s>\n"]


def test_a_template_writes_pairs_and_sees_the_records_own_fields():
    template = "{{ lang }}: {{ messages[0].content }}{% generation %}{{ target }}{% endgeneration %}"
    record = {"source": "Tag", "target": "day", "lang": "en"}
    assert learned(record, template, template="x.jinja") == ["day"]


def test_tools_and_null_fields_of_columnar_files_reach_the_template_as_they_are_in_json():
    template = (
        "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}{% generation %}{{ m.tool_calls[0].name }}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "args": None}]}
    messages = [{"role": "user", "content": "x", "tool_calls": None}, call]
    assert learned({"messages": messages, "tools": '[{"name": "f"}]'}, template) == ["f"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, "its messages are an empty list"),
        ({"messages": ["a"]}, "message 1 of 1 is no object but str"),
        (
            {"id": "c7", "messages": [{"content": "a"}]},
            "conversation 'c7': message 1 of 1 has no role; its fields",
        ),
        ({"messages": [*TURNS, {"role": "user"}]}, "message 5 of 5, of role 'user', has no content"),
        ({"messages": TURNS[:1]}, "no message is of role 'assistant'"),
        ({"messages": [{"role": "user", "content": "</s>"}]}, "a message holds '</s>', a special token"),
        ({"messages": "[{"}, "a string that is no JSON"),
        ({"prompt": "a", "completion": 3}, "its completion is no string but int"),
        ({"messages": TURNS, "prompt": "a", "completion": "b"}, "record of messages and of prompt"),
        ({"body": "a"}, "no_text: no text field 'text'; the fields are: body"),
    ],
)
def test_a_malformed_record_is_named(record, message):
    assert message in learned(record)


def test_a_template_that_refuses_or_hides_earlier_turns_is_a_fault_and_one_that_changes_them_is_none():
    refusing = "{{ raise_exception('roles must alternate') }}"
    assert "refuses it: roles must alternate" in learned({"messages": TURNS}, refusing)
    thinking = (
        "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<think>{% endif %}"
        "{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert learned({"messages": TURNS}, thinking) == ["één</s>", "two</s>"]
    changing = "{% for m in messages %}{{ m.content if loop.last else '-' }}{% endfor %}"
    assert "{% generation %}" in learned({"messages": TURNS}, changing)


def test_messages_without_any_template_end_the_job():
    with pytest.raises(ConfigError, match="no chat template"):
        learned({"messages": TURNS}, None)
