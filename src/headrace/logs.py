"""Progress of a long operation -> a log line now and then; a log level -> the handlers that show the lines.

The library logs to the standard library's logger "headrace" and its children and installs no handler, so a
program that uses headrace decides what is shown: `logging.basicConfig(level=logging.INFO)` shows all of it.
The command line calls `configure_logging`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from os import PathLike
from typing import Literal, TypeAlias

from headrace.formatting import count, duration, nbytes, percent
from headrace.paths import local_path

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

logger = logging.getLogger("headrace")
logger.addHandler(logging.NullHandler())  # without it, Python prints warnings that nobody configured

FIRST_INTERVAL_S = 10.0
"""Seconds between two progress lines in the first two minutes."""
LATER_INTERVAL_S = 60.0
"""Seconds between two progress lines after that: 1,440 lines a day."""
_FIRST_PHASE_S = 120.0


class LineTimer:
    """Decides when the next progress line is due: often at first, then once a minute."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._last = clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the timer was made."""
        return self._clock() - self._start

    def due(self) -> bool:
        """Whether a line is due now; if so, the interval to the next one starts."""
        now = self._clock()
        interval = FIRST_INTERVAL_S if now - self._start <= _FIRST_PHASE_S else LATER_INTERVAL_S
        if now - self._last < interval:
            return False
        self._last = now
        return True


class ProgressLog:
    """A progress function `(done, total, note)` that logs a line at level INFO when one is due.

    `ProgressLog("train", unit="steps")` logs to "headrace.train":
    "200 of 1,100 steps (18 %), 4 min 30 s left: loss 2.50".
    """

    def __init__(
        self, operation: str, *, unit: str = "items", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the function.

        Args:
            operation: the last part of the logger's name: "train" logs to "headrace.train".
            unit: what is counted; "bytes" shows sizes.
            clock: seconds that only increase.
        """
        self._logger = logging.getLogger(f"headrace.{operation.replace(' ', '_')}")
        self._unit = unit
        self._timer = LineTimer(clock=clock)
        self._first_done: int | None = None

    def __call__(self, done: int, total: int | None, note: str) -> None:
        """Log a line when one is due."""
        if self._first_done is None:
            self._first_done = done  # a resumed run does not start at 0
        if self._timer.due():
            self._logger.info("%s", self._line(done, total, note))

    def _line(self, done: int, total: int | None, note: str) -> str:
        def number(value: int) -> str:
            return nbytes(value) if self._unit == "bytes" else count(value)

        unit = "" if self._unit == "bytes" else f" {self._unit}"
        line = f"{number(done)}{unit}"
        if total:
            line = f"{number(done)} of {number(total)}{unit} ({percent(done / total)})"
            progressed = done - (self._first_done or 0)
            if progressed > 0 and done < total:
                left_s = self._timer.elapsed_s * (total - done) / progressed
                line += f", {duration(left_s)} left"
        return f"{line}: {note}" if note else line


class _StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at that moment: a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


def configure_logging(level: LogLevel | None = None, *, path: str | PathLike[str] | None = None) -> None:
    """Show headrace's log on stderr, and append it to a file; for a program that owns its process.

    On a terminal a line is "headrace: text" and the default level is warning, since progress is shown as a bar.
    Elsewhere a line begins with time, level and logger, and the default level is info. A second call replaces
    what the first one installed.

    Args:
        level: the least level that is shown; None chooses the default.
        path: a file that gets the same lines, always with time, level and logger, from level info at least.
    """
    if path is not None:
        path = local_path(path, name="log file")
    terminal = sys.stderr.isatty()
    shown: int = getattr(logging, (level or ("warning" if terminal else "info")).upper())
    full = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    on_stderr = _StderrHandler()
    on_stderr.setLevel(shown)
    on_stderr.setFormatter(logging.Formatter("headrace: %(message)s") if terminal else full)
    logger.addHandler(on_stderr)
    logger.setLevel(shown)
    if path is not None:
        to_file = logging.FileHandler(path, encoding="utf-8")
        to_file.setFormatter(full)
        logger.addHandler(to_file)
        logger.setLevel(min(shown, logging.INFO))
