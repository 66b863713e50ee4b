"""The number of threads follows the time of the calls, and an idle machine loses nothing by it."""

import pytest

from headrace.generation.decoding.thread_count import FIRST_TRIAL, LAST_TRIAL, WINDOW, ThreadCount


def run(count, seconds_of, calls):
    """Calls and their summed seconds."""
    total = 0.0
    for _ in range(calls):
        total += seconds_of(count.value)
        count.record(seconds_of(count.value))
    return total


@pytest.mark.parametrize("most", [1, 2, 3, 8, 12])
def test_an_idle_machine_keeps_all_threads_at_the_cost_of_few_calls(most):
    count = ThreadCount(most)
    total = run(count, lambda threads: 1 / threads, 20_000)
    assert count.value == most
    assert total < 1.02 * 20_000 / most


@pytest.mark.parametrize("best", [1, 2, 4])
def test_the_fastest_number_is_found_wherever_it_is(best):
    count = ThreadCount(8)
    run(count, lambda threads: 1.0 + abs(threads - best), 400)
    assert run(count, lambda threads: 1.0 + abs(threads - best), 1000) < 1.2 * 1000


def test_neighbours_that_come_are_noticed_within_a_window_and_ones_that_go_within_the_interval():
    count = ThreadCount(2)
    idle, busy = {1: 1.0, 2: 0.6}, {1: 1.5, 2: 20.0}
    run(count, idle.get, 5000)
    assert count.value == 2
    run(count, busy.get, 2 * WINDOW)
    run(count, busy.get, WINDOW)
    assert count.value == 1
    run(count, idle.get, 2 * FIRST_TRIAL)
    assert count.value == 2


def test_a_busy_machine_pays_little_for_the_trials():
    """A trial that is far slower ends after few calls, and trials become rare."""
    count = ThreadCount(2)
    busy = {1: 1.0, 2: 20.0}
    run(count, busy.get, 20 * LAST_TRIAL)
    assert run(count, busy.get, 20 * LAST_TRIAL) < 1.05 * 20 * LAST_TRIAL


def test_a_row_that_grows_longer_causes_no_change():
    count = ThreadCount(4)
    for position in range(8000):
        count.record((1 + position / 4000) / count.value)
    assert count.value == 4
