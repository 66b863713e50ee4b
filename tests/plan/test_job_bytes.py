"""The bytes around a job: published intervals, and what has to follow from what."""

import math

import pytest
from hypothesis import given
from hypothesis.strategies import floats

from headrace.errors import ConfigError
from headrace.plan.job_bytes import StorageOptions, daly_interval, input_output, lost_share, young_interval


@given(write=floats(0.1, 1e4), mtbf=floats(1e4, 1e7))
def test_dalys_interval_loses_no_more_than_its_neighbours(write, mtbf):
    best = daly_interval(write, mtbf)
    if write < mtbf / 50:
        for factor in (0.5, 2.0):
            assert lost_share(best, write, mtbf) <= lost_share(best * factor, write, mtbf)
        assert best == pytest.approx(young_interval(write, mtbf), rel=0.25)


def test_figures_follow_from_the_jobs_speed():
    figures = {
        f.name: f.value
        for f in input_output(
            StorageOptions(),
            parameters=13e9,
            tokens_per_s=400e3,
            nodes=8,
            step_s=5.0,
            tokens=300e9,
            memory_bytes_s=3.35e12,
        )
    }
    assert figures["tokens each node reads"] == 50e3
    assert figures["checkpoint"] == pytest.approx(156)
    assert figures["store"] == pytest.approx(255)
    assert figures["checkpoint: interval in steps"] == round(figures["checkpoint: interval"] / 5)
    assert all(math.isfinite(v) and v > 0 for v in figures.values())


@pytest.mark.parametrize("name", ["storage_gb_s", "mtbf_hours", "cores_per_node"])
def test_a_bandwidth_that_is_not_above_zero_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        StorageOptions(**{name: 0})
