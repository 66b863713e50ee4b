"""The demo's output is safe for a terminal, and short in a log."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headrace.demo.display import DemoDisplay, printable
from headrace.logs import FIRST_INTERVAL_S


@given(text=st.text())
def test_no_control_character_of_a_prediction_reaches_the_terminal(text):
    assert all(c == "\n" or c.isprintable() for c in printable(text))


def test_a_prediction_cannot_format_or_command_the_terminal():
    out = io.StringIO()
    sample = {"prompt_id": "[bold]p[/]", "prompt": "\x1b[2J[red]", "text": "\x1b]0;title\x07[/nothing]\nnext"}
    DemoDisplay(steps=1, console=Console(file=out, width=200)).samples([sample])
    assert "\x1b" not in out.getvalue()
    assert "[bold]p[/]" in out.getvalue()
    assert "[/nothing]" in out.getvalue()


def test_a_log_gets_a_line_at_the_start_now_and_then_and_at_the_end():
    out = io.StringIO()
    times = iter([0.0, 0.0, 1.0, FIRST_INTERVAL_S + 1, FIRST_INTERVAL_S + 2, 30.0])
    display = DemoDisplay(steps=2, console=Console(file=out, width=200), clock=lambda: next(times))
    with display.step("train") as (progress, show_result):
        progress(1, 10, "loss 5")
        progress(5, 10, "loss 4")
        progress(6, 10, "loss 3")
        show_result("10 steps")
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines == ["1/2 train ...", "train: 50 % loss 4", "✓ 1/2 train      10 steps  30 s"]


def test_a_terminal_gets_a_bar_that_leaves_one_line():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    display = DemoDisplay(steps=1, console=console)
    with display.step("train") as (progress, show_result):
        progress(5, 10, "[loss] 4")
        show_result("done")
    assert "✓ 1/1 train      done" in out.getvalue().splitlines()[-1]


def test_the_table_keeps_its_columns():
    out = io.StringIO()
    naive = {
        "naive": {"first_batch_s": 3.0, "tokens_per_s": 4e5},
        "headrace": {"first_batch_s": 0.01, "tokens_per_s": 2e8},
    }
    DemoDisplay(steps=1, console=Console(file=out, width=20)).comparison(naive)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
