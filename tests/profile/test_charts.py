"""Charts hold the run's own numbers."""

from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from headrace.profile.axis import short, ticks
from headrace.profile.charts import loss_chart, running_median, speed_chart, stage_times
from headrace.profile.rundir import Step, read_run
from headrace.profile.where import wall_seconds


def test_the_stages_add_up_to_the_seconds_of_the_steps(made):
    run = read_run(made.path)
    stages = {stage.name: stage.seconds for stage in stage_times(run)}
    assert stages == {"waiting": 12.5, "compute": 75.0, "other": 12.5}
    assert wall_seconds(stage_times(run)) == 100.0


def test_background_work_is_shown_but_not_added(made):
    made.steps([{"step": 1, "step_s": 2.0, "compute_s": 2.0, "reading_s": 1.0, "decoding_s": 3.0}])
    stages = stage_times(read_run(made.path))
    assert [(s.name, s.overlaps) for s in stages] == [
        ("reading", True),
        ("decoding", True),
        ("compute", False),
    ]
    assert wall_seconds(stages) == 2.0


def test_generation_and_its_output_are_stages_of_the_run(made):
    made.write("predictions.json", {"predictions": 2, "compute_s": 3.0, "store_s": 0.5})
    stages = {stage.name: stage.seconds for stage in stage_times(read_run(made.path))}
    assert (stages["generating"], stages["output"]) == (3.0, 0.5)


def test_every_step_is_in_the_loss_curve_and_held_out_losses_where_they_were_measured():
    steps = [Step(step=i, loss=float(i), eval_loss=9.0 if i == 30 else None) for i in range(1, 61)]
    chart = loss_chart(steps)
    points = {series.role: series.points for series in chart.series}
    assert points["faint"] == tuple((float(i), float(i)) for i in range(1, 61))
    assert points["marked"] == ((30.0, 9.0),)


def test_a_run_without_losses_or_times_has_no_charts():
    assert loss_chart([Step(step=1)]) is None
    assert speed_chart([Step(step=1)]) is None


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), half=st.integers(0, 10))
def test_the_running_median_is_the_median_of_the_neighbours(values, half):
    points = tuple(enumerate(values))
    smooth = running_median(points, 2 * half + 1)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    for i, y in smooth:
        assert y == statistics.median(values[max(0, i - half) : i + half + 1])


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6), about=st.integers(2, 9))
def test_ticks_lie_within_the_axis_evenly_and_are_neither_none_nor_many(low, size, about):
    found = ticks(low, low + size, about=about)
    assert 1 <= len(found) <= 2 * about + 1
    assert all(low - 1e-6 * size <= t <= low + size * (1 + 1e-6) for t in found)


@given(value=st.integers(1, 10**12))
def test_a_short_label_keeps_three_digits(value):
    size = {"k": 1e3, "M": 1e6, "G": 1e9}
    text = short(float(value))
    read = float(text[:-1]) * size[text[-1]] if text[-1] in size else float(text)
    assert abs(read - value) <= 1e-5 * value
