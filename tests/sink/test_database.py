"""What readers of a job's directory are told: committed rows, or what is wrong with the place."""

from __future__ import annotations

import pytest

import headrace as hr
from headrace.sink import Sink
from headrace.sink.database import read_counts, read_parts


def test_a_job_that_was_only_just_begun_has_no_parts(tmp_path, make_row, request_json):
    with Sink(tmp_path, request=request_json) as sink:
        (tmp_path / "commits.sqlite").rename(tmp_path / "elsewhere")
        assert read_parts(tmp_path) == []
        (tmp_path / "elsewhere").rename(tmp_path / "commits.sqlite")
        sink.put(make_row(0))
        assert read_counts(tmp_path) == (0, 0)  # it is in the log, which readers do not follow
    assert read_counts(tmp_path) == (1, 0)


def test_a_directory_that_is_no_job_says_so(tmp_path):
    with pytest.raises(hr.SinkError, match="no predictions are stored there"):
        read_parts(tmp_path)


def test_each_part_knows_its_smallest_id_when_asked(tmp_path, make_row, request_json):
    with Sink(tmp_path, request=request_json, part_rows=2) as sink:
        for number in (3, 2, 1, 0):
            sink.put(make_row(number))
    assert [part.first_id for part in read_parts(tmp_path, first_ids=True)] == ["000000002", "000000000"]
    assert [part.first_id for part in read_parts(tmp_path)] == ["", ""]
