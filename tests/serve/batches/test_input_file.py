"""A batch's file is read as OpenAI defines it, and each wrong line is named."""

from __future__ import annotations

import orjson
import pytest

from headrace.serve.batches.input_file import MAX_ERRORS, check_input, read_requests

URL = "/v1/completions"
GOOD = {"custom_id": "a", "method": "POST", "url": URL, "body": {"prompt": "x"}}


def write(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines))
    return path


def test_lines_keep_their_numbers_over_blank_ones(tmp_path):
    path = write(tmp_path / "in.jsonl", GOOD, b"", GOOD | {"custom_id": "b"})
    count, _, errors = check_input(path, URL)
    assert (count, errors) == (2, [])
    assert [(line.key, line.custom_id) for line in read_requests(path)] == [
        ("000000000", "a"),
        ("000000002", "b"),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (GOOD | {"custom_id": 7}, "custom_id: missing"),
        (GOOD | {"custom_id": "first"}, "'first' was given before"),
        (GOOD | {"method": "GET"}, "method: 'GET'; expected POST"),
        (GOOD | {"url": "/v1/embeddings"}, "url: '/v1/embeddings'; the batch is for /v1/completions"),
        (GOOD | {"body": "x"}, "body: missing, or not an object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, says):
    path = write(tmp_path / "in.jsonl", GOOD | {"custom_id": "first"}, line)
    _, _, errors = check_input(path, URL)
    assert [error["line"] for error in errors] == [2]
    assert says in errors[0]["message"]


def test_errors_are_bounded_and_an_empty_file_is_one(tmp_path):
    assert len(check_input(write(tmp_path / "bad.jsonl", *[b"{"] * 1000), URL)[2]) == MAX_ERRORS
    assert "no request" in check_input(write(tmp_path / "empty.jsonl", b"\n"), URL)[2][0]["message"]


def test_another_content_is_another_digest(tmp_path):
    one = check_input(write(tmp_path / "one.jsonl", GOOD), URL)[1]
    other = check_input(write(tmp_path / "other.jsonl", GOOD | {"body": {"prompt": "y"}}), URL)[1]
    assert one != other
