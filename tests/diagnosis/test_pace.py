"""pace.py: what looking may cost, on a clock of its own."""

from __future__ import annotations

import pytest

from headrace.diagnosis.pace import FIRST_S, FIRST_SAMPLES, SHARE, SamplingPace


def look(pace, *, cost_s, seconds, sees=lambda number: True):
    """Look for some seconds; the looks, the samples and the seconds that they cost."""
    now_s, looks, samples = 0.0, 0, 0
    while now_s < seconds:
        now_s += pace.pause_s(elapsed_s=now_s) + cost_s
        looks += 1
        samples += sees(looks)
        pace.add(cost_s, samples=samples)
    return looks, samples


@pytest.mark.parametrize("cost_s", [1e-5, 2e-4, 5e-3, 2e-2])
def test_looking_costs_a_small_share_after_the_first_looks(cost_s):
    pace = SamplingPace()
    look(pace, cost_s=cost_s, seconds=300)
    first_s = min(FIRST_S, FIRST_SAMPLES * cost_s) + cost_s
    assert pace.spent_s <= first_s + SHARE * 300 + cost_s


def test_a_loop_of_two_seconds_is_seen_whatever_a_look_costs():
    """A look in a process of many threads takes milliseconds, and a share of two seconds is only a few of them."""
    _, samples = look(SamplingPace(), cost_s=5e-3, seconds=2)
    assert samples >= FIRST_SAMPLES


def test_looks_that_never_see_the_loop_wait_end_up_rare():
    looks, _ = look(SamplingPace(), cost_s=5e-3, seconds=60, sees=lambda _: False)
    assert FIRST_S / 5e-3 <= looks < FIRST_S / 5e-3 + 60 / (5e-3 / SHARE) + 2
