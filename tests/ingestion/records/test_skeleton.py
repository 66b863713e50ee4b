"""Fixed texts around contents (skeleton.py): what a template would have written, for every content, or not used."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingestion.options import ChatOptions
from headrace.ingestion.records.chat import ConversationTemplate, edges_in_bytes
from headrace.ingestion.records.messages import MessagesError

LOOP = "{% for m in messages %}"
FIXED = {
    "joined": LOOP + "<{{ m.role }}>{{ m.content + '<e>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "trimmed": LOOP + "{{ '<' + m['role'] + '>' + m['content'] | trim + '\\n' }}{% endfor %}",
    "marked": LOOP + "{% if m.role == 'assistant' %}A {% generation %}{{ ' ' + m.content | trim }}{% endgeneration %}"
    "{{ eos_token }}{% else %}é{{ m.content }}{% endif %}{% endfor %}",
    "tested": LOOP + "{% if m.content is string and m.content is not none %}[{{ m.role }}] {{ m.content }}|{% endif %}"
    "{% endfor %}",
    "empty answers": LOOP + "{{ m.content }}{% endfor %}",
    "twice": LOOP + "({{ m.content }}{{ m.content | trim }}{{ messages[0].content }}){% endfor %}",
    "equal messages": LOOP + "{% if m == messages[-1] %}!{% endif %}{{ m.content }}{% endfor %}",  # roles tell first
    "by variables": "{% set first = messages[0].content %}{% set ns = namespace(n=0) %}{{ first }}" + LOOP
    + "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content }};{% endfor %}",
}  # fmt: skip
LOOKED_AT = {
    "compared": "{% if m.content == 'yes' %}!{% endif %}{{ m.content }}",
    "found in": "{% if '</think>' in m.content %}!{% endif %}{{ m.content }}",
    "a method": "{{ m.content.split('a')[-1] }}",
    "a method of the joined text": "{{ (m.content + 'x').strip() }}",
    "truth": "{% if m.content %}{{ m.content }}{% endif %}",
    "or": "{{ m.content or 'nothing' }}",
    "length": "{% if m.content | length > 3 %}!{% endif %}{{ m.content }}",
    "a part": "{{ m.content[0] }}",
    "a slice": "{{ m.content[:2] }}",
    "letters": "{% for letter in m.content %}{{ letter }} {% endfor %}",
    "a filter": "{{ m.content | upper }}",
    "JSON": "{{ m | tojson }}",
    "concatenated": "{{ ('x' ~ m.content) | trim }}",
    "trimmed when joined": "{{ (' ' + m.content) | trim }}",
    "formatted": "{{ '%s' % m.content }}{% if '%s' % m.content == 'a' %}!{% endif %}",
    "a block": "{% set text %}{{ m.content }}{% endset %}{{ text | trim }}",
    "a macro": "{% macro w(x) %}{{ x }}{% endmacro %}{{ w(m.content) | upper }}",
    "a filter block": "{% filter upper %}{{ m.content }}{% endfilter %}",
    "a test": "{% if m.content is lower %}!{% endif %}{{ m.content }}",
    "as an index": "{{ {'a': 1}[m.content] }}",
    "in a list": "{{ [m.content] }}",
    "others' contents": "{{ messages | map(attribute='content') | join('a') }}",
    "last by sort": "{{ (messages | sort(attribute='content') | last).role }}{{ m.content }}",
    "a call": "{{ m.content() }}",
    "an attribute": "{{ m.content.x }}{{ m.content }}",
}
texts = st.text(alphabet=st.sampled_from("a b\n\té</>yx"), max_size=8)
conversations = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), texts), min_size=1, max_size=4
).map(lambda turns: [{"role": role, "content": text} for role, text in [*turns, ("assistant", "yes")]])


def template(text: str) -> ConversationTemplate:
    return ConversationTemplate(ChatOptions(template=text, variables=(("eos_token", "</s>"),)))


def encoded(chat, messages, learn):
    """The text and the edges of what is learned, or the words of the refusal."""
    try:
        return chat.encoded(messages, learn=learn, values={})
    except MessagesError as error:
        return str(error)


def rendered(chat, messages, learn):
    """The same, rendered for these messages."""
    try:
        return edges_in_bytes(*chat.text(messages, learn=learn, values={}))
    except MessagesError as error:
        return str(error)


@pytest.mark.parametrize("name", FIXED)
@given(
    chats=st.lists(conversations, min_size=3, max_size=6), learn=st.sampled_from(["answers", "last", "all"])
)
@settings(max_examples=25, deadline=None)
def test_a_fixed_text_is_what_the_template_writes_and_learns_the_same(name, chats, learn):
    fast, slow = template(FIXED[name]), template(FIXED[name])
    for messages in [*chats, *chats]:
        assert encoded(fast, messages, learn) == rendered(slow, messages, learn)


@pytest.mark.parametrize("name", LOOKED_AT)
@given(chats=st.lists(conversations, min_size=2, max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_template_that_looks_at_contents_is_rendered_each_time(name, chats):
    text = LOOP + LOOKED_AT[name] + "{% endfor %}"
    fast, slow = template(text), template(text)
    for messages in [*chats, *chats]:
        assert encoded(fast, messages, "all") == rendered(slow, messages, "all")
    assert not any(fast._skeletons.values())


@pytest.mark.parametrize("name", FIXED)
def test_a_template_that_writes_contents_as_they_are_is_not_rendered_again(name, monkeypatch):
    fast = template(FIXED[name])
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    fast.encoded(messages, learn="all", values={})
    monkeypatch.setattr(fast, "_template", None)
    other = [{"role": "user", "content": " é\n"}, {"role": "assistant", "content": ""}]
    assert fast.encoded(other, learn="all", values={}) == edges_in_bytes(
        *template(FIXED[name]).text(other, learn="all", values={})
    )


def test_variables_of_a_record_that_the_template_reads_are_not_taken_from_another_record():
    text = "{{ tone }}" + LOOP + "{{ m.content }}{% endfor %}"
    fast = template(text)
    messages = [{"role": "assistant", "content": "x"}]
    for tone in ("a", "b", None, "c"):
        values = {"tone": tone, "id": 3}
        expected = edges_in_bytes(*template(text).text(messages, learn="all", values=values))
        assert fast.encoded(messages, learn="all", values=values) == expected
