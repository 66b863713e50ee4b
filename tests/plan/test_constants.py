"""The calibrations that come with headrace are whole, and give every constant of both formulae."""

from __future__ import annotations

from headrace.plan import memory, step_time
from headrace.plan.constants import shipped


def test_the_shipped_calibrations_have_every_constant_of_every_system():
    step, peak_memory = shipped()
    for calibration, names in ((step, step_time.CONSTANTS), (peak_memory, memory.CONSTANTS)):
        assert calibration.common.shape == (len(names),)
        assert calibration.constants.shape == (len(calibration.systems), len(names))
        assert len(calibration.counts) == len(calibration.systems)
