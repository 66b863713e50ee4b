"""One process trains into a run directory, from before it reads its first file."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import ConfigError, ResumeError
from headrace.training.run_directory.run_lock import RunLock


def test_a_second_trainer_of_one_run_is_refused(tmp_path: Path) -> None:
    with (
        RunLock(tmp_path),
        pytest.raises(ResumeError, match="another process is training into this run"),
    ):
        RunLock(tmp_path)
    with RunLock(tmp_path):
        pass


def test_a_fresh_directory_is_locked_before_anything_is_in_it(tmp_path: Path) -> None:
    with RunLock(tmp_path / "a" / "run"), pytest.raises(ResumeError, match="another process"):
        RunLock(tmp_path / "a" / "run")


def test_a_directory_that_nothing_was_written_into_is_removed(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    (tmp_path / "old").mkdir()
    with RunLock(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()
    with RunLock(tmp_path / "run"):
        (tmp_path / "run" / "run.json").write_text("{}")
    assert (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_way_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="--out is a file, or below one"):
        RunLock(tmp_path / "file" / below)
