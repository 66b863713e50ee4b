from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from headrace.profile import StepPart, draw_step_bar, read_run_files, report, run_step_balance


def row(step, *, wait_s, **others):
    return {
        "step": step,
        "loss": 2.0,
        "tokens": step,
        "step_s": 1.0,
        "data_wait_s": wait_s,
        "compute_s": 0.9 - wait_s,
    } | others


def balance_of(made, rows):
    made.steps(rows)
    return run_step_balance(read_run_files(made.path))


def test_a_run_that_waits_says_how_much_and_for_what(made):
    rows = [row(i, wait_s=0.29 + 0.02 * (i % 2), reading_s=0.1, decoding_s=0.5) for i in range(1, 61)]
    balance = balance_of(made, rows)
    assert balance.waiting.low < 0.3 < balance.waiting.high
    assert (balance.cause, balance.limiter) == ("decoding", "decompression")
    assert balance.sentence.startswith(
        "30 % of a step of 1.0 s waits for data (95 % interval 30 % to 30 %), because of decoding"
    )
    assert "1.43 times as fast" in balance.sentence


def test_the_first_steps_do_not_count(made):
    rows = [row(i, wait_s=0.8 if i <= 5 else 0.0) for i in range(1, 41)]
    balance = balance_of(made, rows)
    assert balance.limiter == "model"
    assert balance.sentence.startswith("The model is the limit: at most 0")


def test_waits_that_vary_are_not_clear(made):
    rows = [row(i, wait_s=0.6 if i in (9, 30) else 0.0) for i in range(1, 41)]
    balance = balance_of(made, rows)
    assert balance.limiter == "unclear"
    assert balance.sentence.startswith("Not clear yet")


def test_checkpoints_and_evaluations_are_parts_but_no_reason_for_waiting_less(made):
    rows = [
        row(i, wait_s=0.3, step_s=11.0 if i % 10 == 0 else 1.0, checkpoint_s=10.0 * (i % 10 == 0))
        for i in range(1, 61)
    ]
    balance = balance_of(made, rows)
    assert balance.waiting.value == pytest.approx(0.3, abs=0.01)
    assert [part.name for part in balance.parts] == ["compute", "wait for data", "checkpoint", "other"]
    assert sum(part.seconds for part in balance.parts) == pytest.approx(balance.step_s)


def test_few_steps_are_no_balance(made):
    assert balance_of(made, [row(i, wait_s=0.3) for i in range(1, 9)]) is None


def test_the_bar_is_as_long_as_its_parts_and_escapes_names():
    parts = [
        StepPart(name="compute", seconds=0.3, kind="compute"),
        StepPart(name="wait: <b>", seconds=0.1, kind="wait"),
    ]
    svg = ET.fromstring(draw_step_bar(parts))
    widths = {one.get("class"): float(one.get("width")) for one in svg.iter("rect")}
    assert widths == {"part-compute": 345.0, "part-wait": 115.0}
    assert "wait: <b> 25 %" in svg.find("desc").text


def test_the_report_begins_with_the_verdict_and_the_bar(made):
    made.steps([row(i, wait_s=0.3) for i in range(1, 41)])
    page = report(made.path).read_text(encoding="utf-8")
    assert "Is it I/O or the model?" in page
    assert 'class="part-wait"' in page
    picture = (made.path / "plots" / "step.svg").read_text(encoding="utf-8")
    assert ET.fromstring(picture).tag.endswith("svg")
