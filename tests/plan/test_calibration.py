"""Calibration: constants that made the points come back; intervals hold what was held out."""

import numpy as np
import pytest

from headrace.plan.calibration import Calibration, calibrate
from headrace.plan.constants import memory_bytes, shipped, step_seconds
from headrace.plan.step_time import SPREAD
from headrace.plan.table import read_table


def fitted(table):
    return calibrate(step_seconds, table.points, table.step_s, list(table.systems), spread=SPREAD)


def test_points_made_by_the_formulae_are_predicted_by_their_calibration(made_table):
    systems = [("fast", 1.2, 40), ("slow", 0.7, 40)]
    calibration = fitted(read_table(made_table(systems)))
    fresh = read_table(made_table(systems, name="fresh.csv", seed=50))
    found = calibration.predict(step_seconds, fresh.points, fresh.systems)
    assert np.abs(found.value / fresh.step_s - 1).mean() < 0.03
    assert found.known.all()


def test_intervals_hold_about_nine_of_ten_new_points(made_table):
    systems = [("a", 1.1, 60), ("b", 0.9, 60)]
    calibration = fitted(read_table(made_table(systems, noise=0.08)))
    fresh = read_table(made_table(systems, noise=0.08, name="fresh.csv", seed=80))
    found = calibration.predict(step_seconds, fresh.points, fresh.systems)
    inside = ((found.low <= fresh.step_s) & (fresh.step_s <= found.high)).mean()
    assert 0.8 <= inside <= 0.98


def test_a_system_without_points_gets_the_common_constants_and_a_wider_interval(made_table):
    calibration = fitted(read_table(made_table([("a", 1.2, 30), ("b", 0.8, 30), ("c", 1.0, 30)], noise=0.03)))
    p = read_table(made_table([("d", 1.0, 5)], name="new.csv", seed=9)).points
    known = calibration.predict(step_seconds, p, ["c A100"] * 5)
    new = calibration.predict(step_seconds, p, ["d A100"] * 5)
    assert not new.known.any()
    assert (new.high / new.low > known.high / known.low).all()


def test_a_calibration_survives_json(made_table):
    calibration = fitted(read_table(made_table([("a", 1.1, 12), ("b", 0.9, 12)], noise=0.05)))
    again = Calibration.from_json(calibration.to_json())
    p = read_table(made_table([("a", 1.1, 6)], name="new.csv", seed=3)).points
    for systems in (["a A100"] * 6, [None] * 6):
        one, two = (c.predict(step_seconds, p, systems) for c in (calibration, again))
        assert two.value == pytest.approx(one.value, rel=1e-4)
        assert two.high == pytest.approx(one.high, rel=1e-3)


def test_what_came_before_stays_known_when_a_table_is_added(made_table):
    before, _ = shipped()
    table = read_table(made_table([("mine", 0.8, 10)]))
    joined = calibrate(
        step_seconds, table.points, table.step_s, list(table.systems), spread=SPREAD, prior=before
    )
    assert set(before.systems) | {"mine A100"} == set(joined.systems)
    p = table.points
    name = before.systems[0]
    assert joined.predict(step_seconds, p, [name] * len(p)).value == pytest.approx(
        before.predict(step_seconds, p, [name] * len(p)).value
    )


def test_the_shipped_constants_are_positive_and_know_their_systems():
    """Holds constants.py."""
    steps, memories = shipped()
    assert "vTrain A100" in steps.systems
    assert sum(steps.counts) > 300
    assert steps.new_scale > 0
    assert memories.known_scale > 0
    assert callable(memory_bytes)
