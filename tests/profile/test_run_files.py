"""A run directory is read as it is: torn, repeated, incomplete, or not a run at all."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.profile.run_files import read_run_files


def test_a_torn_last_line_is_left_out(made):
    with (made.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "loss": 2.')
    assert read_run_files(made.path).steps[-1].step == 100


def test_a_step_done_again_after_a_kill_counts_once_and_its_last_line_counts(made):
    made.steps([{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 2, "loss": 3.0}])
    assert [(s.step, s.loss) for s in read_run_files(made.path).steps] == [(1, 5.0), (2, 3.0)]


@pytest.mark.parametrize(
    "damage", ["not json", '{"step": 2, "lo{"step": 2}', "[2]", '{"loss": 1}', "\ufffd", '{"step": "a"}']
)
def test_a_damaged_line_in_the_middle_is_left_out_and_named(made, damage):
    (made.path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n')
    with pytest.warns(RuntimeWarning, match=r"metrics\.jsonl: 1 damaged lines are left out.*: line 2 \("):
        assert [step.step for step in read_run_files(made.path).steps] == [1, 3]


def test_metrics_without_one_whole_line_are_refused(made):
    (made.path / "metrics.jsonl").write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match="none of its lines is a step of a run: line 1"):
        read_run_files(made.path)


def test_a_loss_that_is_no_number_is_left_out_of_the_curve(made):
    (made.path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": "high"}\n')
    assert [step.loss for step in read_run_files(made.path).steps] == [None, None]


def test_time_outside_the_parts_of_a_step_is_called_other(made):
    part = {"step_s": 2.0, "data_wait_s": 0.25, "compute_s": 1.0, "checkpoint_s": 0.25}
    made.steps([{"step": 1, **part}, {"step": 2, **part, "eval_s": 0.5}])
    assert [(s.eval_s, s.other_s) for s in read_run_files(made.path).steps] == [(0.0, 0.5), (0.5, 0.0)]


@pytest.mark.parametrize("name", ["nothing-there", "empty", "a-file"])
def test_what_is_no_run_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(ConfigError, match=name):
        read_run_files(tmp_path / name)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_file_beside_the_metrics_is_refused_by_name(made, content):
    (made.path / "naive.json").write_text(content)
    with pytest.raises(ConfigError, match=r"naive\.json"):
        read_run_files(made.path)
