"""Charts hold the run's own numbers."""

from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from headrace.profile.charts import loss_chart, running_median, speed_chart
from headrace.profile.run_files import StepMetrics


def test_every_step_is_in_the_loss_curve_and_held_out_losses_where_they_were_measured():
    steps = [StepMetrics(step=i, loss=float(i), eval_loss=9.0 if i == 30 else None) for i in range(1, 61)]
    chart = loss_chart(steps)
    points = {series.role: series.points for series in chart.series}
    assert points["faint"] == tuple((float(i), float(i)) for i in range(1, 61))
    assert points["marked"] == ((30.0, 9.0),)


def test_a_run_without_losses_or_times_has_no_charts():
    assert loss_chart([StepMetrics(step=1)]) is None
    assert speed_chart([StepMetrics(step=1)]) is None


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), half=st.integers(0, 10))
def test_the_running_median_is_the_median_of_the_neighbours(values, half):
    points = tuple(enumerate(values))
    smooth = running_median(points, 2 * half + 1)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    for i, y in smooth:
        assert y == statistics.median(values[max(0, i - half) : i + half + 1])


def test_the_summary_names_the_loss_of_the_last_step_and_the_median_apart():
    """A median is not said to be the loss of a step."""
    steps = [StepMetrics(step=i, loss=5.0 if i < 100 else 9.0) for i in range(1, 101)]
    assert loss_chart(steps).summary == (
        "Training loss went from 5.00 at step 1 to 9.00 at step 100; the median of the last 11 steps is 5.00."
    )


def test_the_speed_over_the_whole_run_counts_all_seconds():
    """819,200 tokens in 807 s are 1,015 tokens/s, whatever the median of the steps is."""
    steps = [StepMetrics(step=i, tokens=2048 * i, step_s=2.0175, tokens_per_s=2216.0) for i in range(1, 401)]
    assert speed_chart(steps).summary == (
        "The median of 400 steps is 2,216 tokens per second; "
        "over the whole run, evaluation and checkpoints included, it is 1,015."
    )
