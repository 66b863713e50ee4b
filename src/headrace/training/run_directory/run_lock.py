"""A run directory -> a lock on it that other processes see and that ends with this one."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.errors import ConfigError, ResumeError
from headrace.platform import lock_file
from headrace.storage import is_file_at, make_directory

_LOCK = ".lock"


class RunLock:
    """Holds a run directory for one process, from before its first file is read until its last is written.

    A directory that this made, and that nothing was written into, is removed again.

    Raises:
        ConfigError: the path is a file, or cannot be made.
        ResumeError: another process has the lock.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._made = not out.exists()
        try:
            make_directory(out)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"{out}: --out is a file, or below one; expected a directory, or a name that is free."
            ) from None
        except OSError as error:
            raise ConfigError(f"{out}: --out cannot be made: {error.strerror}.") from error
        self._file = self._lock()

    def _lock(self) -> int:
        path = self._out / _LOCK
        while True:
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # removed by a process that held it and wrote nothing
                make_directory(self._out)
                continue
            except OSError as error:
                raise ConfigError(f"{self._out}: --out cannot be written: {error.strerror}.") from error
            try:
                is_free, is_current = lock_file(file, wait=False), is_file_at(file, path)
            except OSError as error:
                os.close(file)
                raise ConfigError(f"{path}: cannot be locked: {error.strerror}.") from error
            if is_free and is_current:
                return file
            os.close(file)
            if not is_free:
                raise ResumeError(
                    f"{self._out}: another process is training into this run. Wait for it, or give another --out."
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._made and [path.name for path in self._out.iterdir()] == [_LOCK]:
                (self._out / _LOCK).unlink()
                self._out.rmdir()
        except OSError:
            pass  # another process began with the same directory
        finally:
            os.close(self._file)
