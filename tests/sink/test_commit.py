"""Tests commit.py and request.py."""

import errno
import os
import random
import signal

import pytest

from headrace.errors import ConfigError, ResumeError, SinkError, SpaceError
from headrace.sink import Sink, count_predictions, read_predictions

STEPS = ("frame", "part written", "part synced", "part renamed", "before commit", "committed", "log removed")


def keys(out):
    table = read_predictions(out, columns=["prompt_id", "sample_index"])
    return sorted(zip(table["prompt_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True))


def expected(rows):
    return [(f"{i:09d}", 0) for i in range(rows)]


@pytest.mark.parametrize("moment", [(step, nth) for step in STEPS for nth in (1, 2)])
def test_a_kill_at_any_boundary_of_a_commit_loses_and_doubles_nothing(
    tmp_path, start_writer, make_row, request_json, moment
):
    """Rows that were in the log before the kill are there after it; the rest is made again, once."""
    child = start_writer(tmp_path, step=moment[0], nth=moment[1])
    printed = child.stdout.read().split()
    assert child.wait() == -signal.SIGKILL
    with Sink(tmp_path, request=request_json, part_rows=4) as sink:
        for i in map(int, printed):
            assert sink.done(f"{i:09d}", 0), f"row {i} was stored before the kill"
        for i in range(10):
            sink.put(make_row(i))
    assert keys(tmp_path) == expected(10)
    leftovers = {path.name for path in tmp_path.rglob("*")} - {"parts", "job.json", "commits.sqlite"}
    assert leftovers == {"part-00000.parquet", "part-00001.parquet", "part-00002.parquet"}


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_job_killed_again_and_again_at_random_ends_with_every_key_once(
    tmp_path, start_writer, request_json, format
):
    rng = random.Random(format)
    for _ in range(4):
        child = start_writer(tmp_path, format=format, rows=300, part_rows=16)
        for _ in range(rng.randrange(1, 280)):
            child.stdout.readline()
        child.kill()
        child.wait()
    child = start_writer(tmp_path, format=format, rows=300, part_rows=16)
    child.communicate()
    assert child.returncode == 0
    assert keys(tmp_path) == expected(300)


def test_readers_see_what_is_committed_and_nothing_else(tmp_path, make_row, request_json):
    sink = Sink(tmp_path, request=request_json, part_rows=4)
    for i in range(6):
        sink.put(make_row(i))
    assert keys(tmp_path) == expected(4)
    assert count_predictions(tmp_path) == (4, 0)
    (tmp_path / "parts" / "part-00009.parquet").write_bytes(b"not named by a commit")
    assert keys(tmp_path) == expected(4)
    sink.close()
    assert keys(tmp_path) == expected(6)


def test_a_key_is_stored_once_however_often_it_is_put(tmp_path, make_row, request_json):
    with Sink(tmp_path, request=request_json, part_rows=3) as sink:
        assert [sink.put(make_row(i % 5, text=f"{i}")) for i in range(15)] == [True] * 5 + [False] * 10
    assert sorted(read_predictions(tmp_path)["text"].to_pylist()) == ["0", "1", "2", "3", "4"]


def test_samples_of_one_prompt_are_different_keys(tmp_path, make_row, request_json):
    with Sink(tmp_path, request=request_json) as sink:
        assert sink.put(make_row(0, sample_index=0))
        assert sink.put(make_row(0, sample_index=1))
        assert not sink.put(make_row(0, sample_index=1))
    assert keys(tmp_path) == [("000000000", 0), ("000000000", 1)]


def test_rows_in_the_log_are_taken_up_by_the_next_open(tmp_path, make_row, request_json):
    sink = Sink(tmp_path, request=request_json)
    sink.put(make_row(0))
    sink.abandon()
    assert keys(tmp_path) == []
    with Sink(tmp_path, request=request_json) as sink:
        assert sink.done("000000000", 0)
        assert sink.counts() == (1, 0)
    assert keys(tmp_path) == expected(1)


def test_an_error_in_the_job_keeps_its_finished_rows(tmp_path, make_row, request_json):
    def job():
        with Sink(tmp_path, request=request_json) as sink:
            sink.put(make_row(0))
            raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        job()
    with Sink(tmp_path, request=request_json) as sink:
        assert sink.done("000000000", 0)


def test_another_request_is_refused_and_the_difference_is_named(tmp_path, make_row, request_json):
    with Sink(tmp_path, request=request_json) as sink:
        sink.put(make_row(0))
    with pytest.raises(ResumeError, match="; seed: stored 1, requested 2"):
        Sink(tmp_path, request=request_json | {"sampling": {"seed": 2}})
    assert keys(tmp_path) == expected(1)


def test_a_file_where_the_directory_should_be_is_refused(tmp_path, request_json):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SinkError, match="is a file"):
        Sink(tmp_path / "out", request=request_json)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_second_coordinator_is_refused_and_the_first_goes_on(
    tmp_path, start_writer, make_row, request_json
):
    with Sink(tmp_path, request=request_json) as sink:
        sink.put(make_row(0))
        with pytest.raises(SinkError, match="another process is writing"):
            Sink(tmp_path, request=request_json)
        child = start_writer(tmp_path)
        child.communicate()
        assert child.returncode == 1
        sink.put(make_row(1))
    assert keys(tmp_path) == expected(2)


def test_the_lock_dies_with_its_process_and_leaves_no_file(tmp_path, start_writer, request_json):
    child = start_writer(tmp_path, step="frame", nth=1)
    child.wait()
    Sink(tmp_path, request=request_json).close()
    assert {path.name for path in tmp_path.iterdir()} == {"parts", "job.json", "commits.sqlite"}


def test_a_directory_that_is_no_output_is_left_alone(tmp_path, request_json):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SinkError, match=r"holds thesis\.tex but no job\.json"):
        Sink(tmp_path, request=request_json)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_retried_error_is_replaced_and_other_rows_are_kept(tmp_path, make_row, request_json):
    broken = {"type": "DocumentError", "message": "not JSON"}
    with Sink(tmp_path, request=request_json, part_rows=2) as sink:
        for i in range(4):
            sink.put(make_row(i, error=broken if i % 2 else None))
        assert sink.done("000000001", 0)
    assert count_predictions(tmp_path) == (4, 2)
    with Sink(tmp_path, request=request_json, part_rows=2, retry_errors=True) as sink:
        assert sink.done("000000000", 0)
        assert not sink.done("000000001", 0)
        assert sink.put(make_row(1, text="good now"))
        assert sink.put(make_row(3, error=broken))
        assert not sink.put(make_row(0))
        assert sink.counts() == (4, 1)
    assert keys(tmp_path) == expected(4)
    assert count_predictions(tmp_path) == (4, 1)
    table = read_predictions(tmp_path, sort=True)
    assert table["text"].to_pylist() == ["t0", "good now", "t2", "t3"]
    assert table["error"].to_pylist() == [None, None, None, broken]


class SmallDisk:
    """A device with space for so many bytes of the sink's writing."""

    def __init__(self, space):
        self.space = space

    def write_all(self, fd, data):
        taken = bytes(data)[: self.space]
        os.write(fd, taken)
        self.space -= len(taken)
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_any_byte_is_said_and_loses_nothing(tmp_path, make_row, request_json, monkeypatch):
    """The job fails with the space it has, and is completed with more, from every such point."""
    space, finished, said = 0, False, set()
    while not finished:
        out = tmp_path / str(space)
        stored = 0
        with monkeypatch.context() as patch:
            disk = SmallDisk(space)
            for module in ("storage.files", "sink.log"):
                patch.setattr(f"headrace.{module}.write_all", disk.write_all)
            try:
                with Sink(out, request=request_json, part_rows=2) as sink:
                    for i in range(3):
                        sink.put(make_row(i))
                        stored = i + 1
                finished = True
            except SpaceError as error:
                said.add(str(error).partition(": ")[2])
        with Sink(out, request=request_json, part_rows=2) as sink:
            assert all(sink.done(f"{i:09d}", 0) for i in range(stored))
            for i in range(3):
                sink.put(make_row(i))
        assert keys(out) == expected(3)
        assert not list(out.rglob("*.tmp"))
        space += 331
    assert space > 331 * 20
    assert all("no space left" in text and "run the same command again" in text for text in said)


def test_a_full_disk_in_the_commit_itself_is_said_and_loses_nothing(tmp_path, make_row, request_json):
    sink = Sink(tmp_path, request=request_json, part_rows=10_000)
    for i in range(2000):
        sink.put(make_row(i))
    pages = sink._db.execute("PRAGMA page_count").fetchone()[0]
    sink._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(SpaceError, match="no space left"):
        sink.commit()
    assert keys(tmp_path) == []
    sink._db.execute("PRAGMA max_page_count = 1000000")
    sink.close()
    assert keys(tmp_path) == expected(2000)


def test_a_damaged_commit_database_is_named(tmp_path, make_row, request_json):
    with Sink(tmp_path, request=request_json) as sink:
        sink.put(make_row(0))
    (tmp_path / "commits.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(SinkError, match=r"commits\.sqlite"):
        read_predictions(tmp_path)
    with pytest.raises(SinkError, match=r"commits\.sqlite"):
        Sink(tmp_path, request=request_json)


@pytest.mark.parametrize(("option", "value"), [("format", "csv"), ("part_rows", 0), ("part_bytes", 0)])
def test_options_without_meaning_are_refused_before_anything_is_made(tmp_path, request_json, option, value):
    with pytest.raises(ConfigError):
        Sink(tmp_path / "out", request=request_json, **{option: value})
    assert not (tmp_path / "out").exists()
