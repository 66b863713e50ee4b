"""Results are shown as they are: JSON of any value, and progress that fits the terminal or the log."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from headrace.cli import console


@dataclass(frozen=True)
class Inner:
    path: Path
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    count: np.int64
    names: dict[object, str]


def test_a_summary_of_any_shape_becomes_plain_json(capsysbinary):
    console.print_json(
        Outer(inner=Inner(path=Path("a/b"), numbers=(1, 2)), count=np.int64(7), names={3: "x"})
    )
    out = capsysbinary.readouterr().out
    assert out.endswith(b"\n")
    assert json.loads(out) == {"inner": {"path": "a/b", "numbers": [1, 2]}, "count": 7, "names": {"3": "x"}}


class AlwaysDue:
    elapsed_s = 1.0

    def due(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(
        console, "stderr", Console(file=out, force_terminal=True, width=80, color_system=None)
    )
    return out


def test_on_a_terminal_progress_is_a_bar_of_one_line_whatever_the_note(terminal):
    with console.progress_bar("ingest", unit="bytes") as progress:
        progress(500, 1000, "a-long-name/" * 30)
    lines = terminal.getvalue().splitlines()
    assert any("ingest" in line for line in lines)
    assert max(len(line) for line in lines) < 200  # the note is cut, so that nothing wraps


def test_a_quiet_command_shows_no_bar(terminal):
    with console.progress_bar("ingest", quiet=True) as progress:
        progress(1, 2, "")
    assert "ingest" not in terminal.getvalue()


def test_elsewhere_progress_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(console, "stderr", Console(file=io.StringIO(), force_terminal=False))
    with caplog.at_level(logging.INFO, "headrace"), console.progress_bar("train", unit="steps") as progress:
        monkeypatch.setattr(progress, "_timer", AlwaysDue())
        progress(2, 4, "loss 3")
    assert caplog.messages == ["2 of 4 steps (50 %): loss 3"]


def test_a_warning_is_logged_so_that_the_level_governs_it(caplog):
    console.warn("careful")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("headrace", "WARNING", "careful")
    ]


def test_a_long_value_of_a_table_is_folded_and_not_cut():
    out = io.StringIO()
    Console(file=out, width=40).print(console.facts("title", [("name", "x" * 90)]))
    assert out.getvalue().count("x") == 90
