"""The bytes around a job: published intervals, and what has to follow from what."""

import math

import pytest
from hypothesis import given
from hypothesis.strategies import floats

from headrace.errors import ConfigError
from headrace.plan.job_bytes import (
    StorageOptions,
    daly_interval,
    input_output,
    lost_share,
    with_measured,
    young_interval,
)


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


def figures_of(options, *, tokens_per_s=400e3, **given):
    found = input_output(
        options, parameters=13e9, tokens_per_s=tokens_per_s, nodes=8, step_s=5.0, tokens=300e9,
        memory_bytes_s=3.35e12, **given,
    )  # fmt: skip
    return {figure.name: figure for figure in found}


def test_codecs_and_shuffles_say_whether_they_keep_up():
    slow = figures_of(StorageOptions(cores_per_node=1), tokens_per_s=8 * 1e9)
    assert slow["zstd, block shuffle"].unit.endswith("does not keep up")
    assert figures_of(StorageOptions())["zstd, block shuffle"].unit.endswith(": keeps up")
    # Each row of 2,048 tokens fetches a block of 65,536: 32 times the bytes.
    few = figures_of(StorageOptions())
    assert few["zstd, global shuffle"].value == pytest.approx(32 * few["zstd, block shuffle"].value)


def test_every_figure_has_a_formula():
    assert all(figure.formula for figure in figures_of(StorageOptions()).values())


def test_measured_figures_replace_defaults_and_nothing_that_was_given():
    measured = with_measured(StorageOptions(cores_per_node=4), decode_tokens_s=250e6, cores=2)
    assert (measured.decode_mtokens_s, measured.cores_per_node) == (250, 4)
    assert with_measured(StorageOptions(), decode_tokens_s=0, cores=0) == StorageOptions()
