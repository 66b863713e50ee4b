"""What readers of a job's directory are told: committed rows, or what is wrong with the place."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import suppress

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


def test_no_changed_byte_of_the_database_or_the_job_ends_in_a_traceback(tmp_path, make_row, request_json):
    """Each mutation gives the rows, or one of our errors; rows are never fewer without an error."""
    rng = random.Random(7)
    with Sink(tmp_path / "whole", request=request_json, part_rows=3) as sink:
        for number in range(8):
            sink.put(make_row(number))
    for name in ("commits.sqlite", "job.json"):
        data = (tmp_path / "whole" / name).read_bytes()
        for trial in range(120):
            out = tmp_path / f"{name}-{trial}"
            shutil.copytree(tmp_path / "whole", out)
            mutated = bytearray(data)
            for _ in range(rng.choice((1, 1, 4, 40))):
                # SQLite's pages are mostly empty: the first bytes of a page and its cells matter.
                at = rng.randrange(len(data))
                mutated[at] = rng.randrange(256) if data[at] or rng.random() < 0.1 else data[at]
            if rng.random() < 0.2:
                mutated = mutated[: rng.randrange(len(data))]
            (out / name).write_bytes(mutated)
            for use in (read_all, resume):
                with suppress(hr.SinkError, hr.ResumeError, hr.SpaceError):
                    use(out, request_json)
            shutil.rmtree(out)


def read_all(out, _):
    hr.read_predictions(out, sort=True)
    read_counts(out)


def resume(out, request_json):
    with Sink(out, request=request_json) as sink:
        for number in range(8):
            sink.done(f"{number:09d}", 0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE parts SET name = '../../etc/passwd'",
        "UPDATE parts SET name = x'00ff'",
        "UPDATE parts SET nbytes = 'many'",
        "UPDATE parts SET crc32c = -1",
        "UPDATE parts SET rows = 1.5",
        "UPDATE keys SET prompt_id = CAST(x'ff' AS TEXT)",
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(tmp_path, make_row, request_json, statement):
    with Sink(tmp_path, request=request_json) as sink:
        sink.put(make_row(0))
    db = sqlite3.connect(tmp_path / "commits.sqlite")
    db.execute(statement)
    db.commit()
    db.close()
    with pytest.raises(hr.SinkError, match=r"commits\.sqlite"):
        read_parts(tmp_path, first_ids=True)
