from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.profile import share_interval
from headrace.profile.intervals import block_bootstrap, correlation_steps


def test_the_interval_covers_the_truth_nineteen_times_of_twenty():
    """Independent and correlated steps alike; 300 series, so at least 91 % by chance."""
    for memory in (0.0, 0.8):
        covered = 0
        for seed in range(300):
            rng = np.random.default_rng(seed)
            noise, level = np.empty(200), 0.0
            for i, value in enumerate(rng.normal(size=200)):
                level = memory * level + value * math.sqrt(1 - memory**2)
                noise[i] = level
            wait = 0.3 + 0.05 * noise
            interval = share_interval(wait, wait + 0.7)
            covered += interval.low <= 0.3 <= interval.high
        assert covered >= 273, memory


def test_correlated_steps_count_for_less():
    rng = np.random.default_rng(7)
    assert correlation_steps(rng.normal(size=1000)) <= 2
    assert correlation_steps(np.repeat(rng.normal(size=100), 10)) >= 5


def test_few_steps_say_nothing():
    assert share_interval([1.0, 1.0], [2.0, 2.0]).high == 1.0
    assert share_interval([], []).high == 1.0
    assert block_bootstrap(np.ones((3, 2)), lambda means: means[:, 0])[0] == math.inf


def test_equal_steps_have_no_width():
    interval = share_interval([0.5] * 50, [2.0] * 50)
    assert interval.low == interval.high == pytest.approx(0.25)
