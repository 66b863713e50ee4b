"""The openai package cannot tell that it is talking to headrace: sync, async, streams, files and batches.

Modules: model.py, parse.py, format.py, respond.py.
"""

import asyncio
import io
import json
import time

import openai
import pytest


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_the_model_is_listed_and_found(client, server):
    (model,) = client.models.list().data
    assert model.id == server.ready["model"]
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_stream_says_what_the_whole_answer_says(client, server):
    asked = {"model": server.ready["model"], "prompt": "the water", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**asked)
    stream = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in stream if part.choices) == whole.choices[0].text
    assert stream[-1].usage == whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (9, 40)
    assert [part.choices[0].finish_reason for part in stream if part.choices][-1] == "length"


def test_a_stream_ends_in_done_and_every_frame_is_json(server):
    import httpx

    body = {"prompt": 'wheel \u2603 "quoted"\n', "max_tokens": 8, "stream": True, "echo": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = response.read().decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert parts[0]["choices"][0]["text"].startswith(body["prompt"])


def test_n_choices_of_several_prompts_stand_in_order(client, server):
    asked = {"model": server.ready["model"], "max_tokens": 12, "seed": 3, "temperature": 1.0}
    both = client.completions.create(prompt=["the water", "a wheel"], n=3, **asked)
    assert [choice.index for choice in both.choices] == list(range(6))
    alone = client.completions.create(prompt="a wheel", n=3, **asked)
    assert [choice.text for choice in both.choices[3:]] == [choice.text for choice in alone.choices]
    assert len({choice.text for choice in alone.choices}) > 1
    streamed = {}
    for part in client.completions.create(prompt="a wheel", n=3, stream=True, **asked):
        for choice in part.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[i] for i in range(3)] == [choice.text for choice in alone.choices]


def test_one_seed_is_one_answer_and_no_seed_is_another_each_time(client, server):
    asked = {"model": server.ready["model"], "prompt": "the", "max_tokens": 30, "temperature": 1.0}
    first, again = (client.completions.create(seed=11, **asked).choices[0].text for _ in range(2))
    assert first == again
    assert len({client.completions.create(**asked).choices[0].text for _ in range(4)}) > 1


def test_token_ids_and_their_text_are_one_prompt(client, server):
    asked = {"model": server.ready["model"], "max_tokens": 10, "temperature": 0}
    ids = server.post("/tokenize", {"prompt": "the water"}).json()["tokens"]
    texts = [
        client.completions.create(prompt=prompt, **asked).choices[0].text
        for prompt in ("the water", ids, [ids], ["the water"])
    ]
    assert len(set(texts)) == 1
    assert server.post("/detokenize", {"tokens": ids}).json() == {"prompt": "the water"}


def test_a_stop_string_is_not_in_the_answer(client, server):
    asked = {"model": server.ready["model"], "prompt": "the water turns", "max_tokens": 60, "temperature": 0}
    free = client.completions.create(**asked).choices[0].text
    stop = free[10:13]
    cut = client.completions.create(stop=[stop, "never so"], **asked).choices[0]
    assert (cut.text, cut.finish_reason) == (free[: free.index(stop)], "stop")


def test_messages_go_through_the_models_own_template(client, server):
    messages = [{"role": "user", "content": "turn the wheel"}]
    asked = {"model": server.ready["model"], "max_tokens": 20, "temperature": 0}
    answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=3, **asked)
    prompt = "<user> turn the wheel\n<assistant> "
    plain = client.completions.create(prompt=prompt, **asked)
    assert answer.choices[0].message.content == plain.choices[0].text
    said = answer.choices[0].logprobs.content
    assert len(said) == 20
    assert all(one.logprob == max(top.logprob for top in one.top_logprobs) for one in said)
    parts = list(client.chat.completions.create(messages=messages, stream=True, **asked))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == plain.choices[0].text


def test_a_model_without_a_template_says_so(new_server, run_dir):
    server = new_server(run_dir)
    answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_chat_template"
    assert "/v1/completions" in answer.json()["error"]["message"]


def test_leaving_a_stream_early_frees_its_place(client, server):
    before = server.metric("request_cancelled_total")
    stream = client.completions.create(
        model=server.ready["model"],
        prompt="the",
        max_tokens=240,
        n=4,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in stream:
        break
    stream.close()
    server.until(lambda: server.metric("request_cancelled_total") == before + 4)
    server.until(server.idle)


def test_many_async_clients_get_what_one_gets(server):
    async def talk():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:

            async def one(i):
                asked = {
                    "model": server.ready["model"], "prompt": f"the wheel {i % 5}", "max_tokens": 20, "temperature": 0,
                }  # fmt: skip
                if i % 2:
                    return (await client.completions.create(**asked)).choices[0].text
                stream = await client.completions.create(**asked, stream=True)
                return "".join([part.choices[0].text async for part in stream])

            return await asyncio.gather(*(one(i) for i in range(20)))

    texts = asyncio.run(talk())
    assert all(texts[i] == texts[i % 5] for i in range(20))


def batch_file(count, *, bad=()):
    lines = [
        {
            "custom_id": f"row {i}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": f"the {i}", "max_tokens": -1 if i in bad else 6, "temperature": 0},
        }
        for i in range(count)
    ]
    return io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())


def wait_for(client, batch, *, limit_s=150):
    end = time.monotonic() + limit_s
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < end, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def answers_of(client, batch):
    return [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]


def test_a_batch_answers_every_line_once_and_in_order(client):
    file = client.files.create(file=("in.jsonl", batch_file(30, bad=(3, 17))), purpose="batch")
    assert client.files.retrieve(file.id).filename == "in.jsonl"
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h", metadata={"who": "me"}
    )
    done = wait_for(client, batch)
    assert (done.status, done.metadata) == ("completed", {"who": "me"})
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (30, 28, 2)
    good = answers_of(client, done)
    assert [line["custom_id"] for line in good] == [f"row {i}" for i in range(30) if i not in (3, 17)]
    online = client.completions.create(model="tiny-hf", prompt="the 5", max_tokens=6, temperature=0)
    assert good[4]["response"]["body"]["choices"][0]["text"] == online.choices[0].text
    failed = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in failed] == [
        ("row 3", 400),
        ("row 17", 400),
    ]
    assert batch.id in [one.id for one in client.batches.list()]
    client.files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_batch_file_with_faults_fails_naming_the_lines(client):
    lines = b'{"custom_id": "a"}\nnot json\n'
    file = client.files.create(file=("in.jsonl", io.BytesIO(lines)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    done = wait_for(client, batch)
    assert done.status == "failed"
    assert [fault.line for fault in done.errors.data] == [1, 2]


def test_a_cancelled_batch_keeps_what_it_made(client):
    file = client.files.create(file=("in.jsonl", batch_file(3000)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    while client.batches.retrieve(batch.id).request_counts.completed < 3:
        time.sleep(0.05)
    client.batches.cancel(batch.id)
    done = wait_for(client, batch)
    assert done.status == "cancelled"
    ids = [line["custom_id"] for line in answers_of(client, done)]
    assert 3 <= len(ids) < 3000
    assert len(set(ids)) == len(ids)
