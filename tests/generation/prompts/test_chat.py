import json

import pytest

from headrace.errors import ConfigError
from headrace.generation import EngineOptions, generate
from headrace.generation.prompts.chat import ChatEncoder, load_chat_template
from headrace.model import to_hf
from headrace.sink import read_predictions
from headrace.tokens import load_tokenizer

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(gpt, tmp_path_factory):
    """A Hugging Face directory with a chat template."""
    out = tmp_path_factory.mktemp("chat") / "model"
    to_hf(gpt, load_tokenizer("byte"), out)
    (out / "chat_template.jinja").write_text(TEMPLATE)
    return out


def test_messages_of_a_batch_file_are_answered_as_their_rendered_text_is(chatty, tmp_path):
    """A line of OpenAI's batch format for chat, and the same as a prompt of its own: one answer."""
    path = tmp_path / "requests.jsonl"
    turns = [
        {"role": "system", "content": "be"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    body = {"model": "any", "messages": turns, "max_completion_tokens": 6, "temperature": 0}
    lines = [
        {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"id": "row", "messages": turns},
        {"id": "text", "prompt": "<system>be<user>hi<answer>"},
        {"id": "bad", "messages": [{"role": "tool", "content": "x"}]},
        {"id": "image", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    summary = generate(
        chatty, path, tmp_path / "out", max_new_tokens=6, engine=EngineOptions(dtype="float32")
    )
    assert (summary.num_new, summary.num_errors) == (5, 2)
    rows = {row["prompt_id"]: row for row in read_predictions(tmp_path / "out").to_pylist()}
    assert rows["chat"]["prompt"] == rows["row"]["prompt"] == rows["text"]["prompt"]
    assert rows["chat"]["token_ids"] == rows["row"]["token_ids"] == rows["text"]["token_ids"]
    assert "no tools" in rows["bad"]["error"]["message"]
    assert "is no text" in rows["image"]["error"]["message"]


def test_a_model_without_a_template_says_so(gpt, tmp_path):
    to_hf(gpt, load_tokenizer("byte"), tmp_path / "model")
    assert load_chat_template(tmp_path / "model") is None
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatEncoder(tmp_path / "model")([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "message", ["hi", {"content": "x"}, {"role": "user"}, {"role": "user", "tool_calls": [1]}]
)
def test_what_is_no_message_is_refused(chatty, message):
    with pytest.raises(ConfigError, match="messages: "):
        ChatEncoder(chatty)([message])
