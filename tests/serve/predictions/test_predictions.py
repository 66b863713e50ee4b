"""What is committed is what is shown, page by page, whatever the rows hold and however many there are.

Modules: rows.py, query.py, compare.py.
"""

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from headrace.serve.predictions import compare as compare_module
from headrace.serve.predictions import prediction_routes
from headrace.serve.predictions import rows as rows_module
from headrace.sink import Sink, open_sink, read_predictions
from headrace.types import Prediction

REQUEST = {"model": "m" * 32, "num_prompts": 40, "num_samples": 1, "sampling": {"seed": 1}}
HOSTILE = "<script>alert(1)</script> \u202eright to left\u202c 👩‍👩‍👧 \x00\x1b[31m \ud7ff 'quotes' \"and\" \\ % _ .*"


class Clock:
    """Time that passes at every look: no snapshot is old news to a test."""

    now = 0.0

    def __call__(self):
        self.now += 10.0
        return self.now


def row(i, *, text=None, error=None, tokens=3, sample_index=0):
    return Prediction(
        prompt_id=f"{i:09d}",
        sample_index=sample_index,
        prompt=f"prompt {i}",
        text=f"answer {i}" if text is None else text,
        token_ids=tuple(range(tokens)),
        finish_reason="error" if error else "length",
        logprobs=(-0.5,) * tokens,
        prompt_tokens=2,
        completion_tokens=tokens,
        error=error,
    )


def store(out, rows, *, part_rows=7, format="parquet"):
    with Sink(out, request=REQUEST, format=format, part_rows=part_rows) as sink:
        for prediction in rows:
            sink.put(prediction)


def client_of(**stores):
    return TestClient(
        Starlette(routes=prediction_routes({k: str(v) for k, v in stores.items()}, clock=Clock()))
    )


def all_pages(client, name, **params):
    """Every row that a client sees who follows next_offset, and the number of calls."""
    found, offset, calls = [], 0, 0
    while offset is not None:
        page = client.get(f"/predictions/{name}", params=params | {"offset": offset}).json()
        assert page["next_offset"] is None or page["next_offset"] > offset
        found += page["data"]
        offset, calls = page["next_offset"], calls + 1
    return found, calls


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_pages_together_are_exactly_what_is_committed(tmp_path, format):
    store(tmp_path / "out", [row(i) for i in range(40)], format=format)
    client = client_of(a=tmp_path / "out")
    committed = read_predictions(tmp_path / "out").to_pylist()
    for limit in (1, 3, 7, 40, 200):
        rows, _ = all_pages(client, "a", limit=limit)
        assert [r.pop("position") for r in rows] == list(range(40))
        assert rows == committed


@settings(max_examples=40, deadline=None)
@given(
    offset=st.integers(0, 60),
    limit=st.integers(1, 200),
    errors=st.booleans(),
    query=st.sampled_from(["", "nine", "NINE", "3"]),
)
def test_a_page_is_a_slice_of_the_filtered_rows(fifty, offset, limit, errors, query):
    client, committed = fifty
    page = client.get(
        "/predictions/a", params={"offset": offset, "limit": limit, "errors": errors, "query": query}
    ).json()
    wanted = [
        {"position": i} | r
        for i, r in enumerate(committed)
        if i >= offset
        and (not errors or r["error"])
        and (
            not query
            or query.lower() in json.dumps([r["prompt_id"], r["prompt"], r["text"], r["error"]]).lower()
        )
    ]
    assert page["data"] == wanted[:limit]
    if len(wanted) > limit:
        assert offset < page["next_offset"] <= wanted[limit]["position"]


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    out = tmp_path_factory.mktemp("fifty") / "out"
    failed = {"type": "ConfigError", "message": "too long by nine"}
    store(
        out,
        [
            row(i, text="nine lives" if i % 9 == 0 else "x", error=failed if i % 11 == 5 else None)
            for i in range(50)
        ],
    )
    return client_of(a=out), read_predictions(out).to_pylist()


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_page_begins_anywhere_in_a_part_of_many_batches(tmp_path, format):
    store(tmp_path / "out", [row(i, tokens=1) for i in range(2500)], format=format, part_rows=2300)
    client = client_of(a=tmp_path / "out")
    for offset in (0, 1023, 1024, 1025, 2047, 2049, 2299, 2300, 2499):
        page = client.get("/predictions/a", params={"offset": offset, "limit": 2}).json()
        there = range(offset, min(offset + 2, 2500))
        assert [(r["position"], r["prompt_id"]) for r in page["data"]] == [(i, f"{i:09d}") for i in there]


def test_the_list_names_every_store_with_its_counts(tmp_path):
    store(tmp_path / "a", [row(i, error={"type": "E", "message": "m"} if i < 3 else None) for i in range(10)])
    (tmp_path / "not-a-job").mkdir()
    answer = (
        client_of(a=tmp_path / "a", b=tmp_path / "not-a-job", c=tmp_path / "not-yet")
        .get("/predictions")
        .json()
    )
    a, b, c = answer["data"]
    assert (a["name"], a["rows"], a["errors"], a["rows_expected"], a["parts"]) == ("a", 10, 3, 40, 2)
    assert a["bytes"] == sum(path.stat().st_size for path in (tmp_path / "a" / "parts").iterdir())
    assert a["model"] == "m" * 32
    assert a["request"] == REQUEST
    assert "no job.json" in b["error"]
    assert "no job.json" in c["error"]


def test_a_running_job_is_followed_and_rows_not_committed_are_not_shown(tmp_path):
    client = client_of(a=tmp_path / "out")
    assert client.get("/predictions/a").status_code == 500
    with Sink(tmp_path / "out", request=REQUEST, part_rows=5) as sink:
        seen = []
        for i in range(12):
            sink.put(row(i))
            seen.append(client.get("/predictions/a").json()["rows"])
        assert seen == [0] * 4 + [5] * 5 + [10] * 3
        assert client.get("/predictions").json()["data"][0]["rows"] == 10
        assert client.get("/predictions/a", params={"offset": 10}).json()["data"] == []
    rows = client.get("/predictions/a", params={"offset": 10}).json()["data"]
    assert [r["position"] for r in rows] == [10, 11]


def test_replaced_error_rows_are_seen_once(tmp_path):
    failed = {"type": "E", "message": "m"}
    store(tmp_path / "out", [row(i, error=failed if i % 2 else None) for i in range(10)], part_rows=4)
    client = client_of(a=tmp_path / "out")
    assert client.get("/predictions/a").json()["errors"] == 5
    with Sink(tmp_path / "out", request=REQUEST, part_rows=4, retry_errors=True) as sink:
        for i in range(1, 8, 2):
            sink.put(row(i, text="now it worked"))
    rows, _ = all_pages(client, "a", limit=3)
    assert [r["position"] for r in rows] == list(range(10))
    assert sorted(r["prompt_id"] for r in rows) == [f"{i:09d}" for i in range(10)]
    assert client.get("/predictions/a").json()["errors"] == 1


def test_an_object_store_is_read_like_a_directory():
    with open_sink("memory://browse-test", request=REQUEST) as sink:
        for i in range(9):
            sink.put(row(i))
    client = client_of(a="memory://browse-test")
    assert client.get("/predictions").json()["data"][0]["rows"] == 9
    assert [r["text"] for r in client.get("/predictions/a", params={"offset": 7}).json()["data"]] == [
        "answer 7",
        "answer 8",
    ]


def test_hostile_text_comes_through_to_the_byte(tmp_path):
    store(tmp_path / "out", [row(0, text=HOSTILE)])
    client = client_of(**{"odd name/é": tmp_path / "out", "a": tmp_path / "out"})
    answer = client.get("/predictions/a")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["data"][0]["text"] == HOSTILE
    for word in ("<script>", "\u202eright", "👧", ".*", "% _", "\\"):
        assert len(client.get("/predictions/a", params={"query": word}).json()["data"]) == 1, word
    assert client.get("/predictions/a", params={"query": "x.*"}).json()["data"] == []


def test_a_search_is_many_short_answers(tmp_path, monkeypatch):
    """However few rows match, a call looks at a bounded number of rows, and all calls together find all."""
    monkeypatch.setattr(rows_module, "SCAN_ROWS", 10)
    store(
        tmp_path / "out", [row(i, text="needle" if i in (3, 77) else "hay") for i in range(80)], part_rows=5
    )
    rows, calls = all_pages(client_of(a=tmp_path / "out"), "a", query="needle")
    assert [r["position"] for r in rows] == [3, 77]
    assert calls == 8


def test_an_answer_is_bounded_however_large_the_rows_are(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "RESPONSE_BYTES", 5000)
    store(tmp_path / "out", [row(i, text="x" * 2000) for i in range(20)])
    client = client_of(a=tmp_path / "out")
    assert len(client.get("/predictions/a").content) < 5000 + 2500
    rows, _ = all_pages(client, "a")
    assert [r["position"] for r in rows] == list(range(20))


def test_an_excerpt_is_short_shows_what_was_found_and_has_no_values_per_token(tmp_path):
    store(tmp_path / "out", [row(0, text="a " * 500 + "Needle" + " b" * 500)])
    client = client_of(a=tmp_path / "out")
    (short,) = client.get("/predictions/a", params={"query": "needle", "excerpt": 40}).json()["data"]
    assert "Needle" in short["text"]
    assert len(short["text"]) <= 42
    assert short["clipped"]
    assert "token_ids" not in short
    (full,) = client.get("/predictions/a", params={"offset": short["position"], "limit": 1}).json()["data"]
    assert (len(full["text"]), full["token_ids"]) == (2006, [0, 1, 2])


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ("offset=-1", "offset"),
        ("offset=one", "offset"),
        ("offset=1_0", "offset"),
        ("offset=%D9%A3", "offset"),
        ("offset=99999999999999999999999999", "offset"),
        ("offset=", "offset"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1.5", "limit"),
        ("errors=maybe", "errors"),
        ("excerpt=0", "excerpt"),
        ("excerpt=10001", "excerpt"),
        ("query=" + "x" * 1001, "query"),
        ("limit=1&limit=2", "limit"),
        ("ofset=1", "ofset"),
    ],
)
def test_bad_input_is_a_400_that_names_the_parameter(tmp_path, params, param):
    store(tmp_path / "out", [row(0)])
    answer = client_of(a=tmp_path / "out").get(f"/predictions/a?{params}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].startswith(f"{param}: ")


def test_an_unknown_name_is_a_404_that_names_the_known_ones(tmp_path):
    store(tmp_path / "out", [row(0)])
    for name in ("b", "..%2Fa", "A"):
        answer = client_of(a=tmp_path / "out").get(f"/predictions/{name}")
        assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith("there are: a.")


def test_a_damaged_part_is_an_error_and_never_a_row(tmp_path):
    store(tmp_path / "out", [row(i) for i in range(9)], part_rows=3)
    second = sorted((tmp_path / "out" / "parts").iterdir())[1]
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    client = client_of(a=tmp_path / "out")
    assert len(client.get("/predictions/a", params={"limit": 3}).json()["data"]) == 3
    answer = client.get("/predictions/a", params={"offset": 3})
    assert answer.status_code == 500
    assert "crc32c" in answer.json()["error"]["message"]


def test_many_viewers_of_a_running_job_each_see_a_sound_prefix(tmp_path):
    client, problems, done = client_of(a=tmp_path / "out"), [], threading.Event()
    store(tmp_path / "out", [row(0)], part_rows=1)

    def watch():
        while not done.is_set():
            answer = client.get("/predictions/a", params={"limit": 200})
            places = [r["position"] for r in answer.json()["data"]]
            if answer.status_code != 200 or places != list(range(len(places))):
                problems.append(answer.text)

    with client:
        viewers = [threading.Thread(target=watch) for _ in range(4)]
        for viewer in viewers:
            viewer.start()
        store(tmp_path / "out", [row(i) for i in range(60)], part_rows=2)
        done.set()
        for viewer in viewers:
            viewer.join()
    assert problems == []


def test_rows_come_with_another_stores_rows_of_the_same_keys(tmp_path):
    """Whatever the order of the stores, and with rows that the other has not."""
    store(tmp_path / "a", [row(i, text=f"a{i % 3}") for i in range(20)], part_rows=6)
    store(
        tmp_path / "b",
        [row(i, text=f"b{i}" if i % 5 == 0 else f"a{i % 3}") for i in range(24, 3, -1)],
        part_rows=4,
    )
    client = client_of(a=tmp_path / "a", b=tmp_path / "b")
    rows, _ = all_pages(client, "a", limit=7, compare="b")
    assert [r["prompt_id"] for r in rows] == [f"{i:09d}" for i in range(20)]
    assert all(r["other"] is None for r in rows[:4])
    assert [r["other"]["prompt_id"] for r in rows[4:]] == [r["prompt_id"] for r in rows[4:]]
    assert rows[5]["other"]["text"] == "b5"
    assert rows[5]["other"]["token_ids"] == [0, 1, 2]
    different, _ = all_pages(client, "a", limit=2, compare="b", different="true")
    assert [r["position"] for r in different] == [0, 1, 2, 3, 5, 10, 15]
    both, _ = all_pages(client, "a", compare="b", different="true", query="a1", excerpt=1)
    assert [r["position"] for r in both] == [1, 10]


def test_samples_of_one_prompt_are_compared_each_with_its_own(tmp_path):
    for name in ("a", "b"):
        store(
            tmp_path / name, [row(i, text=f"{name}{i}{s}", sample_index=s) for i in range(3) for s in (0, 1)]
        )
    rows, _ = all_pages(client_of(a=tmp_path / "a", b=tmp_path / "b"), "a", compare="b")
    assert [r["other"]["text"] for r in rows] == [r["text"].replace("a", "b") for r in rows]


def test_a_running_job_is_compared_as_far_as_it_has_come(tmp_path):
    store(tmp_path / "a", [row(i) for i in range(10)])
    client = client_of(a=tmp_path / "a", b=tmp_path / "b")
    with Sink(tmp_path / "b", request=REQUEST, part_rows=2) as sink:
        for i in range(10):
            rows = client.get("/predictions/a", params={"compare": "b"}).json()["data"]
            assert sum(r["other"] is not None for r in rows) == i // 2 * 2
            sink.put(row(i))


def test_what_cannot_be_compared_is_an_error_that_says_so(tmp_path, monkeypatch):
    store(tmp_path / "a", [row(i) for i in range(10)])
    client = client_of(a=tmp_path / "a", b=tmp_path / "b")
    for params, status, words in (
        ("compare=c", 404, "no prediction store named 'c'"),
        ("different=true", 400, "together with compare"),
        ("compare=b", 500, "no job.json"),
    ):
        answer = client.get(f"/predictions/a?{params}")
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    monkeypatch.setattr(compare_module, "MAX_ROWS", 9)
    assert "read_predictions" in client.get("/predictions/a?compare=a").json()["error"]["message"]


def test_no_answer_holds_a_path_of_the_server(tmp_path):
    store(tmp_path / "a", [row(i) for i in range(9)], part_rows=3)
    next(iter((tmp_path / "a" / "parts").iterdir())).write_bytes(b"damaged")
    client = client_of(a=tmp_path / "a", b=tmp_path / "b")
    for path in ("/predictions", "/predictions/a", "/predictions/b"):
        assert str(tmp_path) not in client.get(path).text
