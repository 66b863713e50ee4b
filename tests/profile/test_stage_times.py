"""Seconds by stage are named in words that are true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.formatting import duration, percent
from headrace.profile.run_files import read_run_files
from headrace.profile.stage_times import (
    StageTime,
    describe_stages,
    run_stage_times,
    slowest_stage,
    wall_seconds,
)

NAMES = [
    "reading",
    "decoding",
    "waiting",
    "compute",
    "evaluation",
    "checkpoint",
    "generating",
    "output",
    "other",
]
STAGES = st.lists(
    st.builds(StageTime, name=st.sampled_from(NAMES), seconds=st.floats(0, 1e6), overlaps=st.booleans()),
    unique_by=lambda stage: stage.name,
)


@given(stages=STAGES)
def test_the_slowest_stage_is_one_of_the_wall_time(stages):
    top = slowest_stage(stages)
    if top is None:
        assert wall_seconds(stages) == 0
    else:
        assert not top.overlaps
        assert all(stage.seconds <= top.seconds for stage in stages if not stage.overlaps)
        assert f"spent {percent(top.seconds / wall_seconds(stages))} of its" in describe_stages(stages)
        assert top.phrase in describe_stages(stages).partition(";")[0]


def test_a_run_bound_by_its_data_says_what_the_data_waited_for():
    stages = [
        StageTime(name="reading", seconds=9.0, overlaps=True),
        StageTime(name="decoding", seconds=30.0, overlaps=True),
        StageTime(name="waiting", seconds=40.0),
        StageTime(name="compute", seconds=10.0),
    ]
    assert describe_stages(stages) == (
        "The run spent 80 % of its 50 s waiting for data; 20 % in compute. "
        "It waited for decoding, which took 30 s in the background."
    )


def test_nothing_timed_is_said_so():
    assert describe_stages([]) == "Nothing was timed yet."


@given(seconds=st.floats(0, 1e7))
def test_a_duration_reads_back_as_what_it_was(seconds):
    """Within the precision that is shown: three digits, or the last unit."""
    units = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    words = duration(seconds).split()
    read = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(read - seconds) <= max(0.06 * seconds, 1e-9)


@given(share=st.floats(0, 1))
def test_a_share_that_is_not_zero_is_never_shown_as_zero(share):
    assert (percent(share) in ("0 %", "0.0 %")) == (share == 0)


def test_the_stages_add_up_to_the_seconds_of_the_steps(made):
    run = read_run_files(made.path)
    stages = {stage.name: stage.seconds for stage in run_stage_times(run)}
    assert stages == {"waiting": 12.5, "compute": 75.0, "other": 12.5}
    assert wall_seconds(run_stage_times(run)) == 100.0


def test_background_work_is_shown_but_not_added(made):
    made.steps([{"step": 1, "step_s": 2.0, "compute_s": 2.0, "reading_s": 1.0, "decoding_s": 3.0}])
    stages = run_stage_times(read_run_files(made.path))
    assert [(s.name, s.overlaps) for s in stages] == [
        ("reading", True),
        ("decoding", True),
        ("compute", False),
    ]
    assert wall_seconds(stages) == 2.0


def test_generation_and_its_output_are_stages_of_the_run(made):
    made.write("predictions.json", {"predictions": 2, "compute_s": 3.0, "store_s": 0.5})
    stages = {stage.name: stage.seconds for stage in run_stage_times(read_run_files(made.path))}
    assert (stages["generating"], stages["output"]) == (3.0, 0.5)
