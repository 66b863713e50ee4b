"""recorder.py, options.py, held.py."""

from __future__ import annotations

import numpy as np
import pytest

import headrace as hr
from headrace.diagnosis.held import share_memory
from headrace.diagnosis.recorder import StepRecorder, trimmed_mean


def record(recorder, steps, *, start_s=0.0):
    now_s = start_s
    for wait_s, work_s, free in steps:
        recorder.end_step(now_s)
        recorder.begin_step(now_s, now_s + wait_s, free=free)
        now_s += wait_s + work_s
    recorder.end_step(now_s)
    return now_s


def test_steps_are_left_out_until_what_was_made_ahead_is_used_up():
    """A long first step lets the loader get ahead; the steps that profit from it do not count."""
    recorder = StepRecorder(warmup_steps=2, block_steps=4)
    record(
        recorder,
        [(0.0, 30.0, False), (0.0, 1.0, False)] + [(0.0, 1.0, False)] * 10 + [(1.0, 1.0, False)] * 30,
    )
    assert recorder.wait_share().value == pytest.approx(0.5)


def test_bursts_of_workers_count_whole():
    """Four workers deliver together: three of four steps do not wait. A part of a burst would have too few waits."""
    recorder = StepRecorder(warmup_steps=1, block_steps=4)
    burst = [(4.0, 1.0, False), (0.0, 1.0, False), (0.0, 1.0, False), (0.0, 1.0, False)]
    record(recorder, burst * 10 + burst[1:])
    assert recorder.wait_share().value == pytest.approx(0.5, abs=0.02)


def test_a_free_block_is_compared_with_both_sides_so_that_drift_cancels():
    recorder = StepRecorder(warmup_steps=1, block_steps=4)
    now_s, work_s = 0.0, 1.0
    for _ in range(4):
        steps = []
        for free in [False] * 10 + [True] * 4:
            work_s += 0.01
            steps.append((0.0 if free else 0.2, work_s, free))
        now_s = record(recorder, steps, start_s=now_s)
    record(recorder, [(0.2, work_s + 0.01 * i, False) for i in range(10)], start_s=now_s)
    share = recorder.stall_share()
    assert share.value == pytest.approx(recorder.wait_share().value, abs=0.01)


def test_blocks_that_show_only_noise_count_for_little():
    """A machine that others use: steps differ so much that free blocks say little; the waits still do."""
    recorder = StepRecorder(warmup_steps=1, block_steps=4)
    rng, now_s = np.random.default_rng(1), 0.0
    for _ in range(5):
        level = rng.choice([0.5, 3.0])
        steps = [(0.5, 1.0, False)] * 12 + [(0.0, level, True)] * 4
        now_s = record(recorder, steps, start_s=now_s)
    record(recorder, [(0.5, 1.0, False)] * 12, start_s=now_s)
    assert recorder.free_blocks >= 3
    assert recorder.is_noisy
    waits, stall = recorder.wait_share(), recorder.stall_share()
    assert abs(stall.value - waits.value) < 0.02
    assert waits.half_width < stall.half_width < 0.15 * waits.value * 2.1


def test_one_block_beside_another_process_does_not_decide():
    """It made one step of a block wait for a core for ten steps long."""
    values = [0.2] * 8
    assert trimmed_mean(values) == (pytest.approx(0.2), pytest.approx(0.0), 5)
    mean, error, _ = trimmed_mean([0.1, 0.3] * 4 + [-10.0])
    assert mean == pytest.approx(0.2, abs=0.05)
    assert error < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "steps=3: expected an integer of at least 10"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"block_steps": 1.5}, "block_steps=1.5"),
        ({"precision": 0}, "precision=0: expected a share"),
        ({"max_cost": True}, "max_cost=True"),
        ({"method": "abba"}, 'use "auto", "blocks" or "waits"'),
    ],
)
def test_a_bad_option_is_refused_by_name(options, message):
    with pytest.raises(hr.ConfigError, match=message):
        hr.DiagnoseOptions(**options)


def test_memory_that_is_used_again_is_seen_in_nested_batches():
    one, other = np.zeros(4), np.zeros(4)
    assert share_memory([{"x": [one]}, {"x": [one]}])
    assert share_memory([(one[:2],), (other,), (one[:3],)])
    assert not share_memory([{"x": one, "n": 1}, {"x": other, "n": 1}])
    assert not share_memory([("a", 1), ("a", 1)][:1])
