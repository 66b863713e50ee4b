"""metrics.jsonl: every step once, whatever cut it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ResumeError
from headrace.training.metrics import MetricsLog


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


def test_a_second_trainer_of_one_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, step=0) as log:
        log.append({"step": 1})
        with pytest.raises(ResumeError, match="another process is training into this run"):
            MetricsLog(path, step=0)
    assert steps_in(path) == [1]
