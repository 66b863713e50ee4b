"""plan check: predictions beside measurements, every row accounted for."""

import pytest
from conftest_plan import ROW, write

from headrace.errors import SourceError
from headrace.plan import check


def test_every_row_is_predicted_or_listed_with_its_reason(tmp_path):
    rows = [ROW, {**ROW, "model": "Mixtral 8x7B"}, {**ROW, "mem_gib": 30}]
    report = check(write(tmp_path / "t.csv", rows))
    assert [line["row"] for line in report.rows] == [0, 1, 2]
    assert "mixture" in report.rows[1]["error"]
    for line in (report.rows[0], report.rows[2]):
        assert line["step_s_low"] < line["step_s"] < line["step_s_high"]
        assert line["memory_gib_low"] < line["memory_gib"] < line["memory_gib_high"]
    assert report.unread == 1
    assert report.memory_error is not None


def test_calibrating_on_a_systems_own_points_helps(made_table):
    known = made_table([("odd", 0.4, 40)])
    fresh = made_table([("odd", 0.4, 20)], name="fresh.csv", seed=7)
    before, after = check(fresh), check(fresh, calibrate_on=known)
    assert after.step_error < 0.5 * before.step_error
    assert after.step_error < 0.1
    assert after.systems[0]["calibration_points"] == 40
    assert before.systems[0]["calibration_points"] == 0


def test_one_point_is_no_calibration(tmp_path):
    one = write(tmp_path / "one.csv", [ROW])
    with pytest.raises(SourceError, match="2 rows"):
        check(one, calibrate_on=one)
