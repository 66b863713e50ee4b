"""A page of another origin, or one under a name that only pretends to be this machine, gets nothing.

Modules: origins.py, middleware.py, redaction.py.
"""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from headrace.errors import SinkError
from headrace.serve.metrics import Metrics
from headrace.serve.middleware import RequestMiddleware, error_for
from headrace.serve.origins import CrossOriginPolicy
from headrace.serve.redaction import Redactor

PATHS = ["/v1/models", "/v1/files", "/health", "/metrics", "/predictions", "/openapi.json"]


def client_of(**policy):
    async def answer(_):
        return PlainTextResponse("secret")

    app = RequestMiddleware(
        Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "DELETE"])]),
        metrics=Metrics("m"),
        origins=CrossOriginPolicy(**({"bound": "127.0.0.1"} | policy)),
        max_body_bytes=1000,
        redact=str,
    )
    return TestClient(app, base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0",
        "", "localhost@evil.example", "evil.example#localhost", "[::2]", "127.0.0.1:8000:1", "xn--lcalhost-54a", "a b",
    ],
)  # fmt: skip
def test_a_name_that_is_not_loopbacks_is_refused_on_every_path(host):
    client = client_of()
    for path in [*PATHS, "/", "/page/main.js"]:
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403, path
        assert answer.json()["error"]["code"] == "host_not_allowed"
        assert "--allow-host" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.:8000", "127.0.0.1", "127.9.9.9:80", "[::1]:8000", "a.localhost"],
)
def test_loopbacks_names_are_answered(host):
    assert client_of().get("/v1/models", headers={"host": host}).status_code == 200


def test_further_names_are_allowed_by_option():
    client = client_of(allow_hosts=["llm.example.com", "*.corp.example"])
    for host, status in (
        ("llm.example.com", 200),
        ("LLM.example.com:8000", 200),
        ("a.b.corp.example", 200),
        ("corp.example", 403),
        ("evilcorp.example", 403),
        ("localhost", 200),
    ):
        assert client.get("/v1/models", headers={"host": host}).status_code == status, host
    assert client_of(allow_hosts=["*"]).get("/v1/models", headers={"host": "any.example"}).status_code == 200


def test_a_server_for_other_machines_answers_to_addresses_but_not_to_any_name():
    """Nobody can make an address point elsewhere."""
    client = client_of(bound="0.0.0.0")
    assert client.get("/v1/models", headers={"host": "10.1.2.3:8000"}).status_code == 200
    assert client.get("/v1/models", headers={"host": "[fd00::1]:8000"}).status_code == 200
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403


def test_a_host_given_twice_or_not_at_all_is_400():
    policy = CrossOriginPolicy(bound="127.0.0.1")
    twice = [(b"host", b"localhost"), (b"host", b"evil.example")]
    for headers in (twice, []):
        with pytest.raises(Exception, match="one Host header") as raised:
            policy.check(headers, http_version="1.1", open_path=False)
        assert raised.value.status == 400
    policy.check([], http_version="1.0", open_path=False)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://evil.example:8000"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://localhost:8000"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_a_page_of_another_origin_neither_reads_nor_changes_anything(method, headers):
    client = client_of()
    for path in PATHS:
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 403, path
        assert answer.json()["error"]["code"] == "origin_not_allowed"


def test_the_servers_own_page_and_clients_that_are_no_browser_are_answered():
    client = client_of()
    for headers in (
        {},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ):
        assert client.post("/v1/completions", headers=headers).status_code == 200
    https = {"origin": "https://llm.example", "host": "llm.example"}  # TLS ends at a proxy
    assert client_of(allow_hosts=["llm.example"]).get("/v1/models", headers=https).status_code == 200


def test_a_link_on_another_page_opens_the_page():
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client_of().get("/", headers=headers).status_code == 200


def test_an_origin_that_was_named_may_call():
    client = client_of(allow_origins=["https://app.example"])
    allowed = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
    assert client.post("/v1/completions", headers=allowed).status_code == 200
    assert client.post("/v1/completions", headers={"origin": "https://app.example.evil"}).status_code == 403


def test_the_real_server_checks_both(server):
    answer = server.get("/v1/models")
    assert answer.status_code == 200
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        files = {"file": ("a.jsonl", b"{}")}
        import httpx

        answer = httpx.post(server.url + "/v1/files", files=files, data={"purpose": "batch"}, headers=headers)
        assert answer.status_code == 403


@pytest.mark.parametrize("root", ["/srv/models/a", "models/a", "a"])
def test_no_error_holds_a_path_of_the_server(root):
    redact = Redactor({"model": root, "state": "/var/lib/state"})
    error = SinkError(f"{root}/parts/0.parquet: damaged; see /var/lib/state/batches/b.json")
    message = error_for(error, redact=redact).content["error"]["message"]
    assert message == "<model>: damaged; see <state>"


def test_other_words_are_left_alone():
    redact = Redactor({"model": "run", "out": "s3://bucket/out"})
    assert redact("run it again: /v1/completions") == "run it again: /v1/completions"
    assert redact("s3://bucket/out/job.json: missing") == "<out>: missing"
