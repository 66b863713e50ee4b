"""events.py: what a trainer does between two steps is neither step nor wait."""

from __future__ import annotations

import pytest

import headrace as hr
from headrace.diagnosis import StepEvents


def test_logging_and_saving_are_neither_step_nor_wait(clock):
    results = []
    events = StepEvents(on_result=results.append, verbose=False, clock=clock, observe=False)
    events.begin()
    for step in range(60):
        clock.now_s += 1.0
        events.ready()
        clock.now_s += 3.0
        events.done()
        if step % 5 == 0:
            clock.now_s += 100.0
            events.resumed()
    events.finish()
    assert results[0].stall.value == pytest.approx(0.25)
    assert results[0].step_s == pytest.approx(4.0)
    assert events.result is results[0]


def test_before_training_there_is_nothing_to_say():
    with pytest.raises(hr.ConfigError, match="training has not begun"):
        _ = StepEvents().result
    with pytest.raises(hr.ConfigError, match="expected headrace"):
        StepEvents({"steps": 10})
