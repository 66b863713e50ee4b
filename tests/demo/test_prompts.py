"""Prompts are beginnings that fit, each with its own id."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.demo.prompts import choose_prompts

LINE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
DOCUMENTS = st.lists(st.lists(LINE, max_size=20).map("\n".join), max_size=6).map(
    lambda texts: [(f"file {i}", text) for i, text in enumerate(texts)]
)


@given(documents=DOCUMENTS, count=st.integers(1, 20), limit=st.integers(1, 60))
def test_prompts_fit_end_where_the_text_has_a_line_end_and_have_their_own_ids(documents, count, limit):
    found = choose_prompts(documents, count=count, num_tokens=len, limit=limit)
    assert len(found) <= count
    assert len({prompt["id"] for prompt in found}) == len(found)
    texts = dict(documents)
    for prompt in found:
        assert 1 <= len(prompt["prompt"]) <= limit
        source, _, line = prompt["id"].rpartition(":")
        lines = texts[source].splitlines()[: int(line)]
        assert "\n".join([*lines[:-1], lines[-1].rstrip()]).endswith(prompt["prompt"])


def test_a_function_s_head_is_the_best_beginning():
    text = "import os\n\nx = 1\n\ndef first():\n    pass\n\ny = 2\n"
    found = choose_prompts([("a.py", text)], count=1, num_tokens=len, limit=100)
    assert found == [{"id": "a.py:5", "prompt": "import os\n\nx = 1\n\ndef first():"}]
