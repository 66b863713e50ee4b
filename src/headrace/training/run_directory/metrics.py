"""One step's numbers -> one line of metrics.jsonl, and back to a given step after a crash."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from headrace.errors import CheckpointError, SpaceError
from headrace.storage import fsync_directory

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
STEP_LINES = (METRICS, SAMPLES)
"""Files with lines that belong to steps; samples.jsonl in runs that sample only."""


class MetricsLog:
    """Appends a JSON object a line, of a step each; a line is in the operating system's hands when append returns.

    Opened at a step, it drops the lines of later steps (they are made again) and a last line that a crash
    tore, so no step is in it twice. A damaged line between whole ones is kept and warned about.
    """

    def __init__(self, path: Path, *, step: int, warn: Callable[[str], None] | None = None) -> None:
        self.path = path
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            keep = self._end_of_step(step, warn)
            os.ftruncate(self._file, keep)
            self._end = os.lseek(self._file, keep, os.SEEK_SET)
            os.fsync(self._file)
            if is_new:
                fsync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, line: Mapping[str, object]) -> None:
        """Write one line, whole: when this fails the file ends with the line before.

        Raises:
            SpaceError: no space left.
            CheckpointError: the file cannot be written.
        """
        content = memoryview(orjson.dumps(dict(line), option=orjson.OPT_APPEND_NEWLINE))
        try:
            rest = content
            while rest:  # a write may take a part only: a signal, a full disk
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            raise (SpaceError if full else CheckpointError)(
                f"{self.path}: a line could not be written: {error.strerror}. The checkpoints before are whole. "
                f"{'Free some space' if full else 'Mend the disk'} and run the same command again."
            ) from error
        self._end += len(content)

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps: they are taken again."""
        self._end = self._end_of_step(step, None)
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        os.fsync(self._file)

    def sync(self) -> None:
        """Wait until the lines are on disk: before a checkpoint of their steps is committed."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_of_step(self, step: int, warn: Callable[[str], None] | None) -> int:
        """Bytes up to the last line whose step is at most the given one."""
        keep = offset = 0
        damaged: list[int] = []
        damaged_before: list[int] = []
        steps: set[int] = set()
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                offset += len(line)
                found = _step_of(line)
                if found is None:
                    damaged.append(number)
                elif found <= step:
                    keep, damaged_before = offset, list(damaged)
                    steps.add(found)
        if warn is not None and damaged_before:
            warn(
                f"{self.path}: damaged in line {', '.join(map(str, damaged_before))}; the line is kept, and its "
                f"step's numbers are lost."
            )
        elif warn is not None and len(steps) < step:
            warn(f"{self.path}: has lines of {len(steps):,} of the {step:,} steps before this start.")
        return keep


def last_step(path: Path) -> int | None:
    """The last step that metrics.jsonl has a whole line of; None without one."""
    try:
        with path.open("rb") as lines:
            steps = [step for line in lines if (step := _step_of(line)) is not None]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return max(steps, default=None)


def lines_up_to(path: Path, step: int) -> bytes:
    """The whole lines of metrics.jsonl up to a step; empty without a file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    return b"".join(line for line in lines if (number := _step_of(line)) is not None and number <= step)


def _step_of(line: bytes) -> int | None:
    """The step of a whole line, None of a damaged one."""
    if not line.endswith(b"\n"):
        return None
    try:
        step = orjson.loads(line)["step"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
