"""A commit database that was lost is noticed by readers and by the next run, before anything is generated again."""

from __future__ import annotations

import shutil

import pytest

from headrace.errors import SinkError
from headrace.sink import Sink, count_predictions, read_predictions
from headrace.sink.lost import Listing


@pytest.fixture
def out(tmp_path, make_row, request_json):
    with Sink(tmp_path / "out", request=request_json, part_rows=2) as sink:
        for number in range(5):
            sink.put(make_row(number))
    return tmp_path / "out"


def remove(database):
    database.unlink()


def empty(database):
    database.write_bytes(b"")


def forget(database):
    """Another job's database, which has its tables and no row."""
    import sqlite3

    from headrace.sink.database import TABLES

    database.unlink()
    db = sqlite3.connect(database)
    db.executescript(TABLES)
    db.close()


@pytest.mark.parametrize("damage", [remove, empty, forget])
def test_parts_without_a_database_are_refused_and_kept(out, request_json, damage):
    damage(out / "commits.sqlite")
    before = sorted(path.name for path in (out / "parts").iterdir())
    for use in (read_predictions, count_predictions, lambda path: Sink(path, request=request_json)):
        with pytest.raises(SinkError, match=r"does not name parts/part-00000\.parquet and 2 more"):
            use(out)
    assert sorted(path.name for path in (out / "parts").iterdir()) == before


@pytest.mark.parametrize("damage", [remove, empty, forget])
def test_the_only_part_counts_too(tmp_path, make_row, request_json, damage):
    with Sink(tmp_path, request=request_json) as sink:
        sink.put(make_row(0))
    damage(tmp_path / "commits.sqlite")
    with pytest.raises(SinkError, match="--rebuild-commits"):
        Sink(tmp_path, request=request_json)


def test_an_older_copy_of_the_database_is_refused_by_the_next_run(tmp_path, make_row, request_json):
    with Sink(tmp_path / "out", request=request_json, part_rows=2) as sink:
        for number in range(4):
            sink.put(make_row(number))
            if number == 1:
                shutil.copy(tmp_path / "out" / "commits.sqlite", tmp_path / "older")
    shutil.copy(tmp_path / "older", tmp_path / "out" / "commits.sqlite")
    with pytest.raises(SinkError, match=r"does not name parts/part-00001\.parquet\. "):
        Sink(tmp_path / "out", request=request_json)


def test_a_part_whose_commit_was_cut_off_is_not_lost():
    listing = Listing({"part-00000.parquet": 0, "part-00001.parquet": 1}, frozenset({1}))
    assert listing.lost({"part-00000.parquet"}) == []
    assert listing.lost([]) == ["part-00000.parquet", "part-00001.parquet"]
    assert Listing({"part-00000.parquet": 0}, frozenset()).lost([]) == ["part-00000.parquet"]
    assert Listing({"part-00000.parquet": 0}, frozenset({0})).lost([]) == []
