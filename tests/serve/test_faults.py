"""Clients that leave, lag or crowd, and servers that are told to stop or killed: nothing lost, nobody disturbed."""

import asyncio
import io
import json
import random
import socket
import threading
import time
from urllib.parse import urlparse

import httpx
import openai
import pytest


def raw_request(server, body, *, receive_buffer=None):
    """A socket that has sent a request and read nothing."""
    at = urlparse(server.url)
    made = socket.socket()
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.connect((at.hostname, at.port))
    data = json.dumps(body).encode()
    made.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(data), data)
    )
    return made


@pytest.fixture(scope="module")
def narrow(new_server, run_dir):
    """Two places only."""
    return new_server(run_dir, "--batch-size", 2)


LONG = {"prompt": "the", "max_tokens": 250, "ignore_eos": True, "temperature": 0}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("queued", [False, True])
def test_a_client_that_leaves_takes_its_samples_with_it_in_every_state(narrow, stream, queued):
    """Running or waiting, streaming or not: the place is free at once."""
    narrow.until(narrow.idle)
    before = narrow.metric("request_cancelled_total")
    count = 6 if queued else 2
    clients = [raw_request(narrow, LONG | {"stream": stream, "n": 20}) for _ in range(count)]
    narrow.until(lambda: narrow.metric("num_requests_waiting") >= (count - 1) * 20)
    for client in reversed(clients):  # those that wait leave first
        client.close()
    narrow.until(narrow.idle, limit_s=60)
    assert narrow.metric("request_cancelled_total") - before > (count - 1) * 20
    assert narrow.post("/v1/completions", {"prompt": "the", "max_tokens": 2}).status_code == 200


def test_a_client_that_leaves_while_it_still_sends_is_forgotten(narrow):
    at = urlparse(narrow.url)
    for _ in range(20):
        with socket.create_connection((at.hostname, at.port)) as client:
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"
            )
    assert narrow.post("/v1/completions", {"prompt": "the", "max_tokens": 2}).status_code == 200
    assert narrow.errors == []


def test_a_client_that_reads_a_byte_a_second_does_not_hold_up_the_others(server):
    body = LONG | {"stream": True, "logprobs": 20, "n": 4}
    slow = [raw_request(server, body, receive_buffer=2048) for _ in range(3)]
    over, reading, dripped = threading.Event(), threading.Event(), []

    def drip():
        while not over.wait(1.0):
            dripped.extend(client.recv(1) for client in slow)
            reading.set()

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert reading.wait(90)
    began = time.monotonic()
    fast = [server.post("/v1/completions", LONG) for _ in range(3)]
    took = time.monotonic() - began
    assert all(answer.json()["usage"]["completion_tokens"] == 250 for answer in fast)
    assert took < 120
    over.set()
    dripping.join(60)
    assert len(dripped) >= len(slow)
    assert all(dripped)
    server.until(server.idle)  # their tokens are made and wait; no place is held for a reader
    data = b""
    slow[0].settimeout(30)
    while b"[DONE]" not in data:
        data += slow[0].recv(65536)
    assert data.count(b'"finish_reason":"length"') == 4
    for client in slow:
        client.close()


@pytest.mark.parametrize("count", [200])
def test_two_hundred_streams_at_once_all_end_and_are_all_right(server, count):
    async def crowd():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:

            async def one(i):
                body = {
                    "prompt": f"the wheel {i % 7}", "max_tokens": 20, "temperature": 0, "ignore_eos": True,
                    "stream": True, "stream_options": {"include_usage": True},
                }  # fmt: skip
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    lines = [line async for line in response.aiter_lines() if line]
                assert lines[-1] == "data: [DONE]"
                parts = [json.loads(line[6:]) for line in lines[:-1]]
                assert parts[-1]["usage"]["completion_tokens"] == 20
                return "".join(part["choices"][0]["text"] for part in parts[:-1])

            return await asyncio.gather(*(one(i) for i in range(count)))

    texts = asyncio.run(crowd())
    assert all(texts[i] == texts[i % 7] for i in range(count))


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.campaign)])
def test_memory_is_flat_over_thousands_of_answers(server, rounds):
    body = {"prompt": ["the water"] * 50, "max_tokens": 8, "n": 4, "logprobs": 2}

    def some():
        for _ in range(3):
            assert server.post("/v1/completions", body).status_code == 200

    some()
    some()
    before = server.resident_bytes()
    for _ in range(rounds):
        some()
    assert server.resident_bytes() - before < 24 << 20


def test_sigterm_finishes_what_runs_and_refuses_what_comes(new_server, run_dir):
    server = new_server(run_dir, "--batch-size", 1)
    with httpx.stream(
        "POST", server.url + "/v1/completions", json=LONG | {"stream": True, "n": 8}
    ) as running:
        lines = running.iter_lines()
        next(lines)
        server.process.terminate()
        while httpx.get(server.url + "/health").status_code == 200:
            time.sleep(0.01)
        late = server.post("/v1/completions", {"prompt": "the"})
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "draining"
        assert "retry-after" in late.headers
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert sum('"finish_reason":"length"' in line for line in rest) == 8
    assert server.process.wait(90) == 0
    assert server.errors == []


def test_a_drain_ends_in_bounded_time_and_a_second_signal_at_once(new_server, run_dir):
    for limit, again in ((0.2, False), (300, True)):
        server = new_server(run_dir, "--batch-size", 1, "--drain-s", limit)
        client = raw_request(server, LONG | {"n": 128, "stream": True})
        client.recv(100)
        began = time.monotonic()
        server.process.terminate()
        if again:
            while httpx.get(server.url + "/health").status_code == 200:
                time.sleep(0.01)
            server.process.terminate()
        assert server.process.wait(90) is not None
        assert time.monotonic() - began < 90
        client.close()


def test_a_killed_server_goes_on_with_its_batches_and_every_line_is_answered_once(
    new_server, run_dir, tmp_path
):
    """Killed at random, several times; then left alone."""
    rng = random.Random(2)
    count, state = 400, tmp_path / "state"
    lines = [
        {"custom_id": f"{i}", "method": "POST", "url": "/v1/completions",
         "body": {"prompt": f"the {i}", "max_tokens": 30, "temperature": 0, "ignore_eos": True}}
        for i in range(count)
    ]  # fmt: skip
    content = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
    identity, seen = None, []
    for kills in range(4):
        server = new_server(run_dir, "--batch-size", 4, state=state)
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            if identity is None:
                file = client.files.create(file=("in.jsonl", content), purpose="batch")
                made = client.batches.create(
                    input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
                )
                identity = made.id
            end = time.monotonic() + 90
            while (batch := client.batches.retrieve(identity)).status != "completed":
                assert time.monotonic() < end
                assert batch.status != "failed", batch
                if kills < 3 and batch.request_counts.completed > len(seen) * 60:
                    break
                time.sleep(0.02)
            if kills < 3:
                time.sleep(rng.random() * 0.2)
                seen.append(batch.request_counts.completed)
                server.kill()
                continue
            answers = [
                json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()
            ]
            assert [answer["custom_id"] for answer in answers] == [f"{i}" for i in range(count)]
            assert all(answer["response"]["status_code"] == 200 for answer in answers)
            assert all(answer["response"]["body"]["usage"]["completion_tokens"] == 30 for answer in answers)
            assert batch.request_counts.completed == count
    assert seen[-1] > 0


def test_two_servers_never_share_a_state_directory(new_server, run_dir, tmp_path):
    new_server(run_dir, state=tmp_path)
    with pytest.raises(RuntimeError, match="another server keeps its files"):
        new_server(run_dir, state=tmp_path)


def test_a_port_that_is_taken_is_said_at_once(server, new_server, run_dir):
    with pytest.raises(RuntimeError, match="--port"):
        new_server(run_dir, "--port", urlparse(server.url).port)


def test_a_model_that_is_not_there_is_said_at_once(new_server, tmp_path):
    with pytest.raises(RuntimeError, match="no such directory"):
        new_server(tmp_path / "missing")
