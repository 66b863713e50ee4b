"""Long operations say on stderr where they are; the library alone prints nothing."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from headrace.logs import (
    FIRST_INTERVAL_S,
    LATER_INTERVAL_S,
    LineTimer,
    ProgressLog,
    configure_logging,
    logger,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def restored():
    """The logger as it was before the test."""
    handlers, level = logger.handlers[:], logger.level
    yield
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(level)


def python(code):
    return subprocess.run(
        [sys.executable, "-c", "import logging, headrace.logs as logs\n" + code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_lines_are_frequent_at_first_then_one_a_minute():
    clock = Clock()
    timer = LineTimer(clock=clock)
    due = []
    for second in range(400):
        clock.now = float(second)
        if timer.due():
            due.append(second)
    assert due[:3] == [FIRST_INTERVAL_S, 2 * FIRST_INTERVAL_S, 3 * FIRST_INTERVAL_S]
    assert due[-1] - due[-2] == LATER_INTERVAL_S
    assert len(due) == 16


def test_a_progress_line_has_count_share_time_left_and_note(caplog):
    clock = Clock()
    progress = ProgressLog("train", unit="steps", clock=clock)
    with caplog.at_level(logging.INFO, "headrace"):
        progress(100, 1100, "loss 3.00")  # the first call of a resumed run
        clock.now = 30.0
        progress(200, 1100, "loss 2.50")
        clock.now = 31.0
        progress(201, 1100, "loss 2.49")
    assert [(r.name, r.getMessage()) for r in caplog.records] == [
        ("headrace.train", "200 of 1,100 steps (18 %), 4 min 30 s left: loss 2.50")
    ]


def test_bytes_are_shown_as_sizes_and_an_unknown_total_is_left_out(caplog):
    clock = Clock()
    progress = ProgressLog("ingest", unit="bytes", clock=clock)
    clock.now = 10.0
    with caplog.at_level(logging.INFO, "headrace"):
        progress(2_500_000, None, "")
    assert caplog.messages == ["2.5 MB"]


def test_the_library_alone_prints_nothing():
    done = python("logs.logger.warning('one'); logs.logger.info('two')")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_program_that_configures_logging_sees_the_lines_once():
    done = python("logging.basicConfig(level='INFO', format='%(name)s %(message)s'); logs.logger.info('one')")
    assert done.stderr == "headrace one\n"


def test_without_a_terminal_lines_have_time_and_level_and_go_to_a_file_too(tmp_path):
    log = tmp_path / "run.log"
    done = python(
        f"logs.configure_logging('warning', path={str(log)!r})\n"
        "logging.getLogger('headrace.train').info('step 1'); logs.logger.warning('careful')"
    )
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith(" WARNING headrace: careful\n")
    first, second = log.read_text().splitlines()
    assert first.endswith(" INFO headrace.train: step 1")
    assert second.endswith(" WARNING headrace: careful")


def test_on_a_terminal_a_line_is_short_and_progress_lines_are_left_out(restored, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    configure_logging()
    configure_logging()  # replaces, so that each line is written once
    logger.info("step 1")
    logger.warning("careful")
    assert capsys.readouterr().err == "headrace: careful\n"
