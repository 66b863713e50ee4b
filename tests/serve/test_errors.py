"""Every bad request gets OpenAI's error with the right status, says what to do, and disturbs nobody."""

import asyncio
import random

import httpx
import pytest


def error_of(answer):
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.json()["error"]


BAD = {
    "a list": ([], None, "object"),
    "no prompt": ({}, "prompt", "prompt"),
    "a prompt that is a number": ({"prompt": 3}, "prompt", "prompt"),
    "an empty list": ({"prompt": []}, "prompt", "length"),
    "mixed prompts": ({"prompt": ["a", 3]}, "prompt", "mixed"),
    "an id outside the vocabulary": ({"prompt": [1, 257]}, "prompt", "257"),
    "a negative id": ({"prompt": [-1]}, "prompt", "prompt"),
    "too long": ({"prompt": "x" * 300}, "prompt", "256"),
    "hot": ({"prompt": "a", "temperature": 9}, "temperature", "temperature"),
    "a text for a number": ({"prompt": "a", "max_tokens": "many"}, "max_tokens", "int"),
    "no choices": ({"prompt": "a", "n": 0}, "n", ">= 1"),
    "top_p of zero": ({"prompt": "a", "top_p": 0}, "top_p", "top_p"),
    "an empty stop": ({"prompt": "a", "stop": ""}, "stop", "length"),
    "many stops": ({"prompt": "a", "stop": ["x"] * 17}, "stop", "16"),
    "best_of": ({"prompt": "a", "best_of": 3}, "best_of", "n"),
    "a suffix": ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
    "tools": ({"prompt": "a", "tools": [1]}, "tools", "not supported"),
    "an unknown field": ({"prompt": "a", "temprature": 1}, "temprature", "Unrecognized"),
    "too many logprobs": ({"prompt": "a", "logprobs": 21}, "logprobs", "20"),
    "nothing asked": ({"prompt": "a", "max_tokens": 0}, "max_tokens", "echo"),
    "stream_options alone": ({"prompt": "a", "stream_options": {}}, "stream_options", "stream"),
    "a large seed": ({"prompt": "a", "seed": 2**63}, "seed", "seed"),
    "many prompts": ({"prompt": ["a"] * 4097}, "prompt", "4096"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_completion_is_refused_naming_its_field(server, name):
    body, param, words = BAD[name]
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 5000, b'{"prompt": NaN}', b'{"n": 1e999}'],
)
def test_what_is_no_json_is_refused(server, content):
    answer = httpx.post(
        server.url + "/v1/completions", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404), ("DELETE", "/v1/models", 405), ("GET", "/v1/completions", 405),
        ("GET", "/v1/files/file-0000000000000000", 404), ("GET", "/v1/files/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/batches/batch-..%2f..", 404), ("GET", "/v1/files?limit=x", 400),
        ("GET", "/v1/batches?after=x", 400),
        ("POST", "/v1/completions", 415), ("POST", "/v1/files", 415),
    ],
)  # fmt: skip
def test_wrong_paths_methods_and_types_are_openai_errors_too(server, method, path, status):
    answer = httpx.request(method, server.url + path, content=b"x" if method == "POST" else None)
    assert answer.status_code == status
    error_of(answer)


def test_another_model_is_not_found(server):
    answer = server.post("/v1/completions", {"model": "gpt-9", "prompt": "a"})
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30, 1e-6])
def test_a_temperature_next_to_nothing_is_greedy(server, temperature):
    body = {"prompt": "the", "max_tokens": 9}
    cold = server.post("/v1/completions", body | {"temperature": temperature})
    assert (
        cold.json()["choices"] == server.post("/v1/completions", body | {"temperature": 0}).json()["choices"]
    )


@pytest.fixture(scope="module")
def guarded(new_server, run_dir):
    """Keys, a short queue, one place."""
    return new_server(
        run_dir, "--batch-size", 1, "--max-queue", 2, "--api-key", "one key", env={"HEADRACE_API_KEY": "zwei"}
    )


def test_only_a_key_opens_the_door(guarded):
    def status(**headers):
        return httpx.get(guarded.url + "/v1/models", headers=headers).status_code

    assert status() == 401
    assert status(authorization="Bearer wrong") == 401
    assert status(authorization="one key") == 401
    assert status(authorization="Bearer one key") == 200
    assert status(authorization="bearer zwei") == 200
    assert httpx.get(guarded.url + "/metrics").status_code == 401
    assert httpx.get(guarded.url + "/health").status_code == 200
    assert error_of(httpx.get(guarded.url + "/v1/files"))["code"] == "invalid_api_key"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413_before_it_is_read(guarded, chunked):
    size = 17 << 20

    def pieces():
        for _ in range(size >> 16):
            yield b"x" * (1 << 16)

    headers = {"authorization": "Bearer zwei", "content-type": "application/json"}
    try:
        answer = httpx.post(
            guarded.url + "/v1/completions",
            content=pieces() if chunked else b"x" * size,
            headers=headers,
            timeout=30,
        )
    except httpx.WriteError:  # it closed the connection while we were still writing: that is allowed
        return
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_large"


def test_a_full_queue_is_429_with_retry_after(guarded):
    async def crowd():
        headers = {"authorization": "Bearer zwei"}
        body = {"prompt": "the", "max_tokens": 240, "ignore_eos": True}
        async with httpx.AsyncClient(base_url=guarded.url, headers=headers, timeout=60) as client:
            return await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(12)))

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert error_of(refused[0])["code"] == "queue_full"


def test_no_page_of_another_origin_may_call_unless_it_was_named(server, new_server, run_dir):
    asked = {"origin": "https://example.com", "access-control-request-method": "POST"}
    assert (
        "access-control-allow-origin"
        not in httpx.options(server.url + "/v1/completions", headers=asked).headers
    )
    open_to = new_server(run_dir, "--allow-origin", "https://example.com")
    answer = httpx.options(open_to.url + "/v1/completions", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://example.com"
    other = httpx.options(open_to.url + "/v1/completions", headers=asked | {"origin": "https://example.org"})
    assert "access-control-allow-origin" not in other.headers


def garbage(rng):
    """A body that is wrong in some way, or right by chance."""
    values = [
        None,
        True,
        -1,
        0,
        3,
        1e308,
        "",
        "a",
        [],
        {},
        [1],
        ["a", 1],
        {"a": []},
        2**70,
        "\x00",
        [[]],
        [[1], "a"],
    ]
    names = [
        "prompt", "max_tokens", "n", "stop", "temperature", "seed", "logprobs", "stream", "model", "echo", "top_k", "x",
        "stream_options", "messages", "best_of", "user", "metadata",
    ]  # fmt: skip
    return {name: rng.choice(values) for name in rng.sample(names, rng.randrange(1, 8))}


def fire(server, count, *, seed):
    rng = random.Random(seed)
    statuses = {}

    async def all_of():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def some(bodies):
                for body in bodies:
                    path = rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize", "/v1/batches"])
                    if rng.random() < 0.3:
                        raw = rng.randbytes(rng.randrange(60))
                        answer = await client.post(
                            path, content=raw, headers={"content-type": "application/json"}
                        )
                    else:
                        answer = await client.post(path, json=body)
                    statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                    if answer.status_code != 200:
                        error_of(answer)

            bodies = [garbage(rng) for _ in range(count)]
            await asyncio.gather(*(some(bodies[i::16]) for i in range(16)))

    asyncio.run(all_of())
    return statuses


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.campaign)])
def test_malformed_requests_are_refused_and_leave_no_trace(server, count):
    fire(server, 200, seed=0)
    before = server.resident_bytes()
    statuses = fire(server, count, seed=1)
    assert sum(statuses.values()) == count
    assert set(statuses) <= {200, 400, 404, 415}
    assert statuses[400] > count / 2
    server.until(server.idle)
    assert server.resident_bytes() - before < 30 << 20
    answer = server.post("/v1/completions", {"prompt": "the", "max_tokens": 3})
    assert answer.status_code == 200
    assert server.errors == []


def test_the_page_is_served_with_the_package(server):
    page = httpx.get(server.url + "/")
    assert page.text.startswith("<!doctype html>")
    assert page.headers["x-content-type-options"] == "nosniff"
