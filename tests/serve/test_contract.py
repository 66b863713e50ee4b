"""The OpenAPI document is true: whatever fits it is answered as it says, whatever does not is refused.

Modules: app.py, metrics.py, openapi.py.
"""

import importlib.resources

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def probe(server, *, examples):
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        def one(case):
            nonlocal count
            if isinstance(case.body, dict) and "max_tokens" in case.body:
                case.body["max_tokens"] = 4
            count += 1
            case.call_and_validate(checks=CHECKS, timeout=60)

        from hypothesis import given

        given(case=operation.as_strategy())(one)()
    return count


@pytest.mark.parametrize("examples", [8, pytest.param(300, marks=pytest.mark.campaign)])
def test_schemathesis_finds_no_answer_that_the_document_does_not_name(server, examples):
    assert probe(server, examples=examples) > 40
    server.until(server.idle)
    assert server.errors == []


def test_every_route_is_in_the_document(server):
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    for path in (
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/files",
        "/v1/batches",
        "/tokenize",
        "/health",
    ):
        assert path in paths


def test_metrics_bear_the_names_that_dashboards_know(server):
    server.post("/v1/completions", {"prompt": "the", "max_tokens": 5})
    text = httpx.get(server.url + "/metrics").text
    for name in (
        "num_requests_running", "num_requests_waiting", "prompt_tokens_total", "generation_tokens_total",
        "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket", "request_success_total",
    ):  # fmt: skip
        assert f"\nheadrace:{name}{{" in text


def test_tokens_are_counted_once(server):
    before = server.metric("generation_tokens_total"), server.metric("prompt_tokens_total")
    server.post("/v1/completions", {"prompt": ["the", "a"], "max_tokens": 7, "ignore_eos": True, "n": 2})
    server.until(server.idle)
    assert server.metric("generation_tokens_total") - before[0] == 28
    assert server.metric("prompt_tokens_total") - before[1] == 8


def test_the_page_is_part_of_the_package():
    assert importlib.resources.files("headrace.serve.page").joinpath("index.html").is_file()
