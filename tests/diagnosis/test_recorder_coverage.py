"""recorder.py, session.py: the interval covers the truth of noisy loops; a seeded simulation, no real time."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.diagnosis import DiagnosedLoader, DiagnoseOptions

LOOPS = 40


def noise(rng, steps, kind):
    """Factors with a mean of about 1: independent, with spikes, or alike for tens of steps."""
    if kind == "spikes":
        return rng.lognormal(-0.02, 0.2, steps) * np.where(rng.random(steps) < 0.05, 4.0, 1.0) / 1.15
    if kind == "alike":
        shocks, level, found = rng.normal(0, 1, steps), 0.0, []
        for shock in shocks:
            level = 0.9 * level + np.sqrt(1 - 0.81) * shock
            found.append(np.exp(0.3 * level - 0.045))
        return np.array(found)
    return rng.lognormal(-0.02, 0.2, steps)


def simulate(clock, rng, *, steps, kind, slower=0.0, **options):
    """A loop whose loader runs in its thread and makes its steps slower, too; the diagnosis and the true share."""
    share = rng.uniform(0, 0.6)
    loads = share / (1 - share) * noise(rng, steps, kind)
    works = noise(rng, steps, kind)
    loaded = False

    def batches():
        nonlocal loaded
        for i in range(steps):
            clock.now_s += loads[i]
            loaded = True
            yield [i]

    diagnosed = DiagnosedLoader(
        batches(), options=DiagnoseOptions(**options), clock=clock, observe=False, verbose=False
    )
    for i, _ in enumerate(diagnosed):
        clock.now_s += works[i] * (1 + slower * loaded)
        loaded = False
    cycle = share / (1 - share) + 1 + slower
    return diagnosed.result.stall, 1 - 1 / cycle


@pytest.mark.parametrize("kind", ["independent", "spikes", "alike"])
@pytest.mark.parametrize("method", ["waits", "blocks"])
def test_the_interval_covers_the_truth_without_bias(clock, kind, method):
    rng = np.random.default_rng(5)
    given = {"method": method, "max_cost": 0.9 if method == "blocks" else 0.02, "precision": 0.005}
    found = [simulate(clock, rng, steps=120, kind=kind, **given) for _ in range(LOOPS)]
    covered = sum(stall.low - 0.01 <= truth <= stall.high + 0.01 for stall, truth in found)
    errors = [stall.value - truth for stall, truth in found]
    assert covered >= 0.9 * LOOPS
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(LOOPS) + 0.002


def test_a_loader_that_slows_the_step_stalls_by_more_than_its_own_time(clock):
    """As decompression does on a machine without a free core: the thread wakes later after it had worked."""
    rng = np.random.default_rng(6)
    found = [
        simulate(
            clock,
            rng,
            steps=400,
            kind="independent",
            slower=0.1,
            method="blocks",
            max_cost=0.9,
            precision=0.001,
        )
        for _ in range(15)
    ]
    assert sum(stall.low - 0.01 <= truth <= stall.high + 0.01 for stall, truth in found) >= 13
