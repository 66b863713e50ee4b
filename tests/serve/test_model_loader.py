"""While the model loads the server answers what needs no model, and requests that come early wait in their order."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import uvicorn
from starlette.requests import ClientDisconnect

from headrace.serve.app import ModelServer
from headrace.serve.completions import ServedModel
from headrace.serve.model_loader import ModelLoader
from headrace.serve.options import ServeOptions
from headrace.serve.protocol import APIError


class Gate:
    """A load that reports its progress, and then waits until a test opens it."""

    def __init__(self, load):
        self.opened, self.reported, self.ended = (threading.Event() for _ in range(3))
        self._load = load

    def __call__(self, progress):
        progress(30, 120, "60 MB/s, limited by the store")
        self.reported.set()
        assert self.opened.wait(60)
        try:
            return self._load()
        finally:
            self.ended.set()


@contextlib.contextmanager
def serving(load, state, **options):
    """A server on loopback whose model loads when the gate opens: its URL, and the gate."""
    gate, failures = Gate(load), []
    server = ModelServer("tiny", gate, state=state, options=ServeOptions(**options), redact=str)
    server.on_failure = failures.append
    running = uvicorn.Server(
        uvicorn.Config(server.app, port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert gate.reported.wait(60)
        while not running.started:
            thread.join(0.01)
        gate.url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        gate.failures = failures
        yield gate
    finally:
        gate.opened.set()
        running.should_exit = True
        thread.join(30)
        assert gate.ended.wait(60)  # two threads at once cannot import transformers
        server.close()


def until_waiting(url, count):
    """Wait until so many requests wait for the model; what /health says then."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        state = httpx.get(url + "/health", timeout=90).json()
        if state["waiting"] == count:
            return state
        time.sleep(0.01)
    raise AssertionError(state)


def test_what_needs_no_model_is_answered_while_it_loads(hf_dir, tmp_path):
    with serving(lambda: ServedModel(hf_dir, name="tiny", dtype="float32"), tmp_path) as server:
        health = httpx.get(server.url + "/health")
        assert (health.status_code, health.headers["retry-after"]) == (503, "1")
        state = health.json()
        assert state.pop("seconds") >= 0
        assert state == {
            "status": "loading",
            "share": 0.25,
            "bytes_done": 30,
            "bytes_total": 120,
            "rate": "60 MB/s, limited by the store",
            "waiting": 0,
        }
        for path in ("/", "/metrics", "/openapi.json", "/v1/batches", "/v1/files", "/predictions"):
            assert httpx.get(server.url + path).status_code == 200, path
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(
                httpx.post, server.url + "/v1/completions", json={"prompt": "x", "max_tokens": 1},
                headers={"x-client-id": "me"}, timeout=60,
            )  # fmt: skip
            with httpx.Client(base_url=server.url) as probe:
                while "place" not in (state := probe.get("/health?client=me").json()):
                    assert not sent.done()
                assert (state["place"], state["waiting"]) == (1, 1)
                assert "place" not in probe.get("/health?client=you").json()
            server.opened.set()
            assert sent.result().status_code == 200


def test_a_request_that_is_wrong_waits_for_nothing(hf_dir, tmp_path):
    with serving(lambda: ServedModel(hf_dir, name="tiny", dtype="float32"), tmp_path) as server:
        bad = httpx.post(server.url + "/v1/completions", json={"prompt": 7})
        assert bad.status_code == 400  # at once: it waits for nothing


def test_openais_client_waits_for_the_model_and_gets_its_answers(hf_dir, tmp_path):
    found = {}

    def ask(name, call):
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            found[name] = call(client)

    asked = {"model": "tiny", "max_tokens": 4, "temperature": 0}
    calls = {
        "text": lambda client: client.completions.create(prompt="the", **asked).choices[0].text,
        "stream": lambda client: "".join(
            chunk.choices[0].text for chunk in client.completions.create(prompt="the", stream=True, **asked)
        ),
        "models": lambda client: [model.id for model in client.models.list()],
    }
    with serving(lambda: ServedModel(hf_dir, name="tiny", dtype="float32"), tmp_path) as server:
        threads = [threading.Thread(target=ask, args=item) for item in calls.items()]
        for count, thread in enumerate(threads, 1):
            thread.start()
            until_waiting(server.url, count)
        metrics = httpx.get(server.url + "/metrics").text
        assert 'num_requests_waiting{model_name="tiny"} 3.0' in metrics
        server.opened.set()
        for thread in threads:
            thread.join(60)
        assert server.failures == []
    assert found["text"]
    assert found == {"text": found["text"], "stream": found["text"], "models": ["tiny"]}


def test_more_than_may_wait_are_refused_and_a_client_that_leaves_gives_up_its_place(hf_dir, tmp_path):
    body = {"prompt": "the", "max_tokens": 1}
    with serving(lambda: ServedModel(hf_dir, name="tiny", dtype="float32"), tmp_path, max_queue=1) as server:
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port)) as early:
            early.sendall(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            until_waiting(server.url, 1)
            refused = httpx.post(server.url + "/v1/completions", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["code"] == "queue_full"
        until_waiting(server.url, 0)
        server.opened.set()
        answer = httpx.post(server.url + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200


def test_a_model_that_cannot_be_loaded_is_said_to_those_who_wait(hf_dir, tmp_path):
    def load():
        raise ValueError("its config is empty")

    found = []
    with serving(load, tmp_path) as server:
        thread = threading.Thread(
            target=lambda: found.append(httpx.get(server.url + "/v1/models", timeout=60))
        )
        thread.start()
        until_waiting(server.url, 1)
        server.opened.set()
        thread.join(60)
        assert httpx.get(server.url + "/health").json() == {"status": "failed"}
        assert [str(one) for one in server.failures] == ["its config is empty"]
    assert found[0].status_code == 503
    assert found[0].json()["error"]["code"] == "model_failed"


def test_requests_go_on_in_the_order_in_which_they_came():
    async def main():
        order, gone = [], asyncio.Event()
        opened = threading.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def never():
            await asyncio.Event().wait()

        class Model:
            engine = None

        loader = ModelLoader(lambda _: opened.wait(60) and Model(), max_waiting=10)
        loader.start(on_loaded=lambda _: order.append("loaded"), on_failure=order.append)

        async def one(number):
            await loader.get(receive if number == 2 else never, client=f"client {number}")
            order.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        for _ in tasks:
            await asyncio.sleep(0)  # each begins to wait
        assert loader.waiting == 5
        assert [loader.status(f"client {number}")["place"] for number in range(5)] == [1, 2, 3, 4, 5]
        assert "place" not in loader.status()
        gone.set()
        with pytest.raises(ClientDisconnect):
            await tasks[2]
        assert loader.status("client 3")["place"] == 3
        assert "place" not in loader.status("client 2")
        opened.set()
        await asyncio.gather(*tasks[:2], *tasks[3:])
        assert (order, loader.waiting) == (["loaded", 0, 1, 3, 4], 0)

    asyncio.run(main())


def test_a_server_that_ends_refuses_those_who_wait_and_closes_what_is_loaded_late():
    async def main():
        opened, closed = threading.Event(), threading.Event()

        class Model:
            class engine:  # noqa: N801
                close = staticmethod(closed.set)

        async def never():
            await asyncio.Event().wait()

        loader = ModelLoader(lambda _: opened.wait(60) and Model(), max_waiting=10)
        loader.start(on_loaded=lambda _: pytest.fail("it was loaded"), on_failure=pytest.fail)
        waiting = asyncio.create_task(loader.get(never))
        await asyncio.sleep(0)  # it begins to wait
        assert loader.waiting == 1
        loader.refuse(APIError(503, "The server is shutting down."))
        with pytest.raises(APIError, match="shutting down"):
            await waiting
        opened.set()
        assert await asyncio.to_thread(closed.wait, 60)
        assert loader.model is None

    asyncio.run(main())


def test_a_client_at_second_0_gets_its_answer(hf_dir, tmp_path):
    """As a script does that starts the server and asks at once; the port refuses only until the socket is there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--model", hf_dir, "--port", port, "--state", tmp_path, "--name", "tiny"]
    with subprocess.Popen(
        [sys.executable, "-m", "headrace", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            with openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=20
            ) as client:
                answer = client.completions.create(model="tiny", prompt="the", max_tokens=3)
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert answer.usage.completion_tokens == 3
    assert process.returncode == 0, said
