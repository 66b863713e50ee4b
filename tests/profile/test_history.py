"""A run's segments and its origin are told in the order of their steps."""

from __future__ import annotations

from headrace.profile import report
from headrace.profile.history import history_rows
from headrace.profile.run_files import read_run_files

RUN = {
    "branched_from": {"run": "other@8", "step": 8},
    "segments": [
        {"first_step": 1, "began": "2026-01-01T00:00:00+00:00", "changed": {}},
        {
            "first_step": 13,
            "began": "2026-01-02T00:00:00+00:00",
            "changed": {"lr": [0.003, 0.001], "steps": [12, 2000], "rampup_batch_size": [None, 4]},
        },
    ],
}


def test_changes_are_told_by_step_with_their_date(made):
    made.write("run.json", RUN)
    branch, change = history_rows(read_run_files(made.path))
    assert (branch.step, change.step, change.when[:10]) == (8, 13, "2026-01-02")
    assert branch.what.startswith("branch of other@8")
    assert change.what == "lr 0.003 → 0.001, steps 12 → 2,000, rampup_batch_size none → 4"


def test_the_report_shows_the_history_and_leaves_segments_out_of_the_options(made):
    made.write("run.json", RUN)
    page = report(made.path).read_text()
    assert "lr 0.003 → 0.001" in page
    assert "<dt>segments</dt>" not in page


def test_a_run_that_was_never_changed_has_no_history(made):
    made.write("run.json", {"segments": RUN["segments"][:1]})
    assert history_rows(read_run_files(made.path)) == []
    assert "What happened" not in report(made.path).read_text()
