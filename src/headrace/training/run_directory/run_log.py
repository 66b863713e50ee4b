"""Events of a run -> lines of RUN/train.log and of the logger headrace.training."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from headrace.formatting import duration
from headrace.logs import LineTimer

logger = logging.getLogger("headrace.training")


class RunLog:
    """Appends a line to RUN/train.log for each event, with its time; the same line goes to the logger.

    Only rank 0 has a file. Before the run directory is there, lines go to the logger alone.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def open(self, path: Path) -> None:
        """Begin to write the file."""
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def add_event(self, line: str) -> None:
        """An event that was expected."""
        logger.info("%s", line)
        self._write("INFO", line)

    def add_warning(self, line: str) -> None:
        """An event that the user should look at: also a Python warning, which the command line logs."""
        self._write("WARNING", line)
        warnings.warn(line, RuntimeWarning, stacklevel=2)

    def _write(self, level: str, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {line}\n")
        except OSError:  # a full disk: the checkpoint's error says so
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._write("ERROR", f"{type(error).__name__}: {error}")
        if self._file is not None:
            self._file.close()
            self._file = None


class StepLines:
    """Metrics of steps -> a line now and then: for the first and the last step, evaluations, and by time."""

    def __init__(
        self, log: RunLog, *, first: int, total: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._log = log
        self._first = first
        self._total = total
        self._timer = LineTimer(clock=clock)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Log a step, if a line is due."""
        step = metrics["step"]
        due = self._timer.due()
        if not due and step not in (self._first, self._total) and "eval_loss" not in metrics:
            return
        line = f"step {step:,} of {self._total:,}: {step_note(metrics)}"
        if "eval_loss" in metrics:
            line += f", eval loss {metrics['eval_loss']:.3f}"
            if (bits := metrics.get("eval_bits_per_byte")) is not None:
                line += f" ({bits:.3f} bits per byte)"
        done = step - self._first + 1
        if step < self._total:
            line += f", {duration(self._timer.elapsed_s / done * (self._total - step))} left"
        self._log.add_event(line)


def step_note(metrics: Mapping[str, Any]) -> str:
    """One step in a few words.

    >>> step_note(
    ...     {
    ...         "loss": 4.5,
    ...         "lr": 6e-4,
    ...         "grad_norm": 1.25,
    ...         "tokens_per_s": 12345.6,
    ...         "data_wait_s": 0.001,
    ...         "checkpoint_s": 0.02,
    ...         "step_s": 0.5,
    ...     }
    ... )
    'loss 4.500, lr 6.00e-04, grad norm 1.25, 12,346 tokens/s, data wait 0.2 %, save 20 ms'
    """
    parts = [
        f"loss {metrics['loss']:.3f}",
        f"lr {metrics['lr']:.2e}",
        f"grad norm {metrics['grad_norm']:.2f}",
        f"{metrics['tokens_per_s']:,.0f} tokens/s",
        f"data wait {100 * metrics['data_wait_s'] / metrics['step_s']:.1f} %",
    ]
    if "mfu" in metrics:
        parts.append(f"MFU {100 * metrics['mfu']:.1f} %")
    if metrics["checkpoint_s"]:
        parts.append(f"save {1000 * metrics['checkpoint_s']:.0f} ms")
    return ", ".join(parts)
