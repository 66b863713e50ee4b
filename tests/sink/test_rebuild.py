"""The parts carry their keys: a lost commit database is made again from them."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError, SinkError
from headrace.sink import Sink, count_predictions, open_sink, read_predictions, rebuild_commits

BROKEN = {"type": "DocumentError", "message": "not JSON"}


@pytest.fixture(params=["parquet", "jsonl"])
def out(request, tmp_path, make_row, request_json):
    """Five keys in parts of two; an error row that was replaced, and one that was not."""
    place = tmp_path / "out"
    with Sink(place, request=request_json, part_rows=2, format=request.param) as sink:
        for number in range(5):
            sink.put(make_row(number, error=BROKEN if number in (1, 4) else None))
    with Sink(place, request=request_json, retry_errors=True, format=request.param) as sink:
        sink.put(make_row(1, text="again"))
    return place


@pytest.mark.parametrize("left", ["nothing", "damaged", "whole"])
def test_a_rebuilt_database_gives_the_same_rows_and_counts(out, request_json, make_row, left):
    rows, counts = read_predictions(out, sort=True), count_predictions(out)
    if left == "nothing":
        (out / "commits.sqlite").unlink()
    elif left == "damaged":
        (out / "commits.sqlite").write_bytes(b"x" * 5000)
    assert rebuild_commits(out) == 6
    assert read_predictions(out, sort=True).equals(rows)
    assert count_predictions(out) == counts
    assert (out / "commits.sqlite.old").exists() is (left != "nothing")
    with Sink(out, request=request_json) as sink:
        assert all(sink.done(f"{number:09d}", 0) for number in range(5))
        sink.put(make_row(5))
    assert count_predictions(out) == (6, 1)


def test_rows_that_wait_in_the_log_are_taken_up_after_a_rebuild(tmp_path, make_row, request_json):
    sink = Sink(tmp_path, request=request_json, part_rows=2)
    for number in range(3):
        sink.put(make_row(number))
    sink.abandon()
    (tmp_path / "commits.sqlite").unlink()
    with open_sink(tmp_path, request=request_json, rebuild=True) as sink:
        assert all(sink.done(f"{number:09d}", 0) for number in range(3))
    assert count_predictions(tmp_path) == (3, 0)


def test_a_damaged_part_is_named_and_the_old_database_stays(out):
    before = (out / "commits.sqlite").read_bytes()
    part = sorted((out / "parts").iterdir())[1]
    data = bytearray(part.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    part.write_bytes(data)
    with pytest.raises(SinkError, match=part.name):
        rebuild_commits(out)
    assert (out / "commits.sqlite").read_bytes() == before


def test_a_job_that_is_being_written_is_not_rebuilt(tmp_path, request_json):
    with Sink(tmp_path, request=request_json), pytest.raises(SinkError, match="another process is writing"):
        rebuild_commits(tmp_path)


def test_a_place_without_a_database_says_so(tmp_path, request_json):
    with pytest.raises(SinkError, match=r"no job\.json"):
        rebuild_commits(tmp_path)
    with pytest.raises(ConfigError, match="no database to rebuild"):
        open_sink("memory://somewhere", request=request_json, rebuild=True)
