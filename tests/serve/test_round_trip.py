"""What the server answers is accepted as input, through OpenAI's own client.

Modules: schemas.py, json_io.py, errors.py, openapi.py.
"""

import io
import json

import httpx
import openai
import pytest


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


HELLO = {"role": "user", "content": "turn the wheel"}


def turn(role, content, **more):
    return {"role": role, "content": content} | more


def messages_of(client, model):
    """Every form in which a client holds the server's chat answers."""
    ask = {"model": model, "messages": [HELLO], "max_tokens": 4, "temperature": 1.0}
    plain = client.chat.completions.create(**ask)
    several = client.chat.completions.create(**ask, n=3, logprobs=True, top_logprobs=2)
    raw = client.chat.completions.with_raw_response.create(**ask).http_response.json()
    with client.chat.completions.stream(**ask) as stream:
        for _ in stream:
            streamed = stream.current_completion_snapshot
    yield plain.choices[0].message
    yield plain.choices[0].message.model_dump()
    yield plain.choices[0].message.to_dict()
    yield raw["choices"][0]["message"]
    yield streamed.choices[0].message
    yield streamed.choices[0].message.model_dump()
    yield from (choice.message for choice in several.choices)
    delta = {"content": ""}
    for part in client.chat.completions.create(**ask, stream=True):
        fields = part.choices[0].delta.model_dump()
        delta = {
            "role": fields["role"] or delta["role"],
            "content": delta["content"] + (fields["content"] or ""),
        }
    yield delta


def test_every_message_that_the_server_answers_is_a_turn_of_the_next_request(client, server):
    for message in messages_of(client, server.ready["model"]):
        again = client.chat.completions.create(
            model=server.ready["model"],
            messages=[HELLO, message, {"role": "user", "content": "more"}],
            max_tokens=2,
        )
        assert again.choices[0].message.role == "assistant", message


def test_a_message_comes_back_as_the_same_prompt(server):
    answer = server.post(
        "/v1/chat/completions", {"messages": [HELLO], "max_tokens": 5, "temperature": 0}
    ).json()
    message = answer["choices"][0]["message"]
    bare = {"role": "assistant", "content": message["content"]}
    counts = [
        server.post("/tokenize", {"messages": [HELLO, one]}).json()["tokens"] for one in (message, bare)
    ]
    assert counts[0] == counts[1]


def test_every_text_and_every_token_list_of_a_completion_is_a_prompt(client, server):
    model = server.ready["model"]
    first = client.completions.create(
        model=model, prompt=["the water", "é☃"], n=2, max_tokens=6, echo=True, logprobs=2
    )
    for choice in first.choices:
        client.completions.create(model=model, prompt=choice.text, max_tokens=1)
    ids = server.post("/tokenize", {"prompt": first.choices[0].text, "return_token_strs": True}).json()
    client.completions.create(model=model, prompt=ids["tokens"], max_tokens=1)
    assert server.post("/detokenize", {"tokens": ids["tokens"]}).json()["prompt"] == first.choices[0].text
    (named,) = client.models.list().data
    assert client.models.retrieve(named.id) == named


def test_a_request_with_null_at_every_depth_is_the_request_without(client, server):
    body = {
        "model": server.ready["model"], "max_tokens": 3, "temperature": 0, "stop": None, "tools": None, "stream": False,
        "stream_options": None, "response_format": None, "function_call": None,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "turn", "cache_control": None, "anything": None}]},
            {"role": "assistant", "content": "a", "tool_calls": None, "audio": None, "refusal": None, "parsed": None,
             "function_call": None, "annotations": None},
            {"role": "user", "content": "b", "name": None},
        ],
    }  # fmt: skip
    assert server.post("/v1/chat/completions", body).status_code == 200


def test_fields_that_change_nothing_are_taken(server):
    messages = [
        turn("user", [{"type": "text", "text": "turn", "cache_control": {"type": "ephemeral"}}], name="ada"),
        turn("assistant", "a", annotations=[{"type": "url_citation"}], tool_calls=[], refusal=""),
        turn("assistant", None, refusal="no"),
        turn("assistant", [{"type": "refusal", "refusal": "no"}]),
        turn("user", "b", cache_control={"type": "ephemeral"}),
    ]  # fmt: skip
    answer = server.post(
        "/v1/chat/completions", {"messages": messages, "max_tokens": 2, "store": False, "tools": []}
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"messages": [turn("user", [{"type": "image", "text": "a"}])]}, "messages", "'image'"),
        ({"messages": [turn("user", [{"type": "image_url", "image_url": {"url": "x"}}])]}, "messages", "image_url"),
        ({"messages": [turn("user", [{"type": "text"}])]}, "messages", "needs the field 'text'"),
        ({"messages": [HELLO, turn("assistant", "", audio={"id": "a"})]}, "messages", "audio"),
        ({"messages": [HELLO, turn("assistant", "", tool_calls=[{"id": "a"}])]}, "messages", "tool_calls"),
        ({"messages": [HELLO | {"word": "x"}]}, "messages", "word"),
        ({"messages": [None]}, "messages", "messages[0]"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: 0"),
        ({"max_tokens": None, "max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens: 0"),
        ({"store": True}, "store", "not supported"),
        ({"service_tier": "priority"}, "service_tier", "not supported"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options", "include_obfuscation"),
        ({"metadata": {"a": 1}}, "metadata", "metadata"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_by_its_name(server, change, param, words):
    body = {"messages": [HELLO], "max_tokens": 2} | change
    answer = server.post("/v1/chat/completions", {k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]


def test_a_byte_order_mark_is_ignored_in_bodies_and_in_batch_files(client, server):
    body = b"\xef\xbb\xbf" + json.dumps({"prompt": "the", "max_tokens": 2}).encode()
    answer = httpx.post(
        server.url + "/v1/completions", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == 200
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": "the", "max_tokens": 2},
    }
    content = b"\xef\xbb\xbf" + json.dumps(line).encode()
    file = client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    server.until(
        lambda: client.batches.retrieve(batch.id).status not in ("validating", "in_progress", "finalizing")
    )
    assert client.batches.retrieve(batch.id).status == "completed"


def test_a_batchs_output_is_accepted_as_a_file_and_its_bodies_as_turns(client, server):
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [HELLO], "max_tokens": 2, "logprobs": None},
    }
    file = client.files.create(file=("in.jsonl", io.BytesIO(json.dumps(line).encode())), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    server.until(lambda: client.batches.retrieve(batch.id).status == "completed")
    done = client.batches.retrieve(batch.id)
    content = client.files.content(done.output_file_id)
    client.files.create(file=("again.jsonl", content.read()), purpose="batch")
    message = json.loads(content.text)["response"]["body"]["choices"][0]["message"]
    client.chat.completions.create(
        model=server.ready["model"], messages=[HELLO, message, HELLO], max_tokens=1
    )
    again = client.batches.create(
        input_file_id=done.input_file_id,
        endpoint=done.endpoint,
        completion_window=done.completion_window,
        metadata=done.metadata,
    )
    assert again.metadata == {"a": "b"}


def test_unknown_fields_of_an_upload_are_refused(server):
    answer = httpx.post(
        server.url + "/v1/files",
        files={"file": ("a.jsonl", b"{}")},
        data={"purpose": "batch", "expires_after[anchor]": "created_at"},
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_after[anchor]")


def test_special_tokens_are_special_in_a_prompt_and_text_in_a_message(server):
    def count(**body):
        return server.post("/tokenize", body).json()["count"]

    assert count(prompt="a<|endoftext|>b") == 3
    assert count(prompt="a<|endoftext|>b", split_special_tokens=True) == 15
    plain = count(messages=[turn("user", "a" + "x" * 13 + "b")])
    assert count(messages=[turn("user", "a<|endoftext|>b")]) == plain
    body = {"prompt": "a<|endoftext|>b", "max_tokens": 1, "echo": True, "logprobs": 1}
    (choice,) = server.post("/v1/completions", body).json()["choices"]
    assert choice["text"].startswith("a<|endoftext|>b")
    assert choice["logprobs"]["text_offset"] == [0, 1, 14, 15]
