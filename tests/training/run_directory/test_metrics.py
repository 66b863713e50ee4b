"""metrics.jsonl: every step once, whatever cut it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import SpaceError
from headrace.training.run_directory import metrics as module
from headrace.training.run_directory.metrics import MetricsLog, last_step


def steps_in(path: Path) -> list[int]:
    return [orjson.loads(line)["step"] for line in path.read_bytes().splitlines()]


@settings(max_examples=40, deadline=None)
@given(written=st.integers(0, 8), resume_at=st.integers(0, 8), torn=st.integers(0, 30))
def test_a_log_cut_anywhere_goes_on_with_every_step_once(
    tmp_path_factory: pytest.TempPathFactory, written: int, resume_at: int, torn: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path, step=0) as log:
        for step in range(1, written + 1):
            log.append({"step": step, "loss": 1.0 / step})
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - torn)])
    with MetricsLog(path, step=resume_at) as log:
        kept = steps_in(path)
        log.append({"step": resume_at + 1})
    assert kept == list(range(1, len(kept) + 1))
    assert all(step <= resume_at for step in kept)
    assert steps_in(path) == [*kept, resume_at + 1]


def test_a_fresh_run_does_not_inherit_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n')
    with MetricsLog(path, step=0):
        pass
    assert path.read_bytes() == b""


def test_a_write_that_takes_a_part_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "metrics.jsonl", os.write
    with MetricsLog(path, step=0) as log:
        monkeypatch.setattr(module.os, "write", lambda file, data: write(file, bytes(data[:7])))
        for step in (1, 2, 3):
            log.append({"step": step, "loss": 1.5})
    assert steps_in(path) == [1, 2, 3]


def test_a_line_that_does_not_fit_leaves_the_lines_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "metrics.jsonl", os.write
    with MetricsLog(path, step=0) as log:
        log.append({"step": 1})
        left = [5]

        def full(file: int, data: bytes) -> int:
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, bytes(data[: left.pop()]))

        monkeypatch.setattr(module.os, "write", full)
        with pytest.raises(SpaceError, match="a line could not be written: No space left on device"):
            log.append({"step": 2, "loss": 1.5})
        monkeypatch.undo()
        assert path.read_bytes() == b'{"step":1}\n'
        log.append({"step": 2})
    assert steps_in(path) == [1, 2]


def test_a_damaged_line_in_the_middle_is_named_and_nothing_behind_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2,"lo{"step":3}\n{"step":4}\n{"step":5}\n')
    warnings: list[str] = []
    with MetricsLog(path, step=4, warn=warnings.append):
        pass
    assert path.read_bytes() == b'{"step":1}\n{"step":2,"lo{"step":3}\n{"step":4}\n'
    assert len(warnings) == 1
    assert "damaged in line 2;" in warnings[0]


def test_steps_without_a_line_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":4}\n')
    warnings: list[str] = []
    with MetricsLog(path, step=4, warn=warnings.append):
        pass
    assert warnings == [f"{path}: has lines of 2 of the 4 steps before this start."]


def test_the_last_step_of_a_torn_file_is_that_of_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) is None
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"step":3')
    assert last_step(path) == 2
