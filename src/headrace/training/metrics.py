"""One step's numbers -> one line of metrics.jsonl, and back to a given step after a crash."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from headrace.errors import ResumeError
from headrace.platform import lock_file


class MetricsLog:
    """Appends a JSON object a line; a line is in the operating system's hands when append returns.

    Opened at a step, it forgets the lines of later steps (they will be made again) and a last line
    that a crash tore, so no step stands twice.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not lock_file(self._file, wait=False):  # ends with the process, leaves nothing
            self.close()
            raise ResumeError(
                f"{path}: another process is training into this run. Wait for it, or give another --out."
            )
        keep = _offset_after(path, step)
        os.ftruncate(self._file, keep)
        os.lseek(self._file, keep, os.SEEK_SET)

    def append(self, line: Mapping[str, object]) -> None:
        """Write one line, whole, in one call: a SIGKILL leaves it in or out."""
        os.write(self._file, orjson.dumps(dict(line), option=orjson.OPT_APPEND_NEWLINE))

    def sync(self) -> None:
        """To the disk: before a checkpoint that relies on these lines is committed."""
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


def _offset_after(path: Path, step: int) -> int:
    """Bytes of the whole lines whose step is at most the given one."""
    offset = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                if not line.endswith(b"\n") or orjson.loads(line)["step"] > step:
                    break
            except (orjson.JSONDecodeError, KeyError, TypeError):
                break
            offset += len(line)
    return offset
