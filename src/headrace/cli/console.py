"""Results and progress -> tables and one JSON object on stdout, progress bars or log lines on stderr."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from headrace.formatting import count, nbytes
from headrace.logs import ProgressLog, logger

stdout = Console()
stderr = Console(stderr=True)

ProgressFunction: TypeAlias = Callable[[int, int | None, str], None]


def _uncut() -> Column:
    """A column that a narrow terminal does not cut."""
    return Column(no_wrap=True)


_COLUMNS = 60
"""Characters that the bar, the counts, the speed and the times take."""


class _NoteColumn(TextColumn):
    """The note, cut on a narrow terminal so that the bar stays one line."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.truncate(max(stderr.width - len(task.description) - _COLUMNS, 8), overflow="ellipsis")
        return text


@contextmanager
def progress_bar(
    title: str, *, unit: str = "items", quiet: bool = False, lazy: bool = False
) -> Iterator[ProgressFunction]:
    """Show progress while the block runs: a bar when stderr is a terminal, elsewhere a log line now and then.

    Args:
        title: the operation, a verb phrase.
        unit: "bytes" shows sizes and MB/s, anything else counts.
        quiet: no bar; log lines are governed by --log-level.
        lazy: show the bar from the first call on, until all is done: only one bar can be shown at a time.

    Yields:
        progress(done, total, note): total None while unknown.
    """
    if not stderr.is_terminal:
        yield ProgressLog(title, unit=unit)
        return
    counts: list[ProgressColumn] = (
        [DownloadColumn(table_column=_uncut()), TransferSpeedColumn(table_column=_uncut())]
        if unit == "bytes"
        else [MofNCompleteColumn(table_column=_uncut())]
    )
    bar = Progress(
        TextColumn("{task.description}", table_column=_uncut()),
        BarColumn(bar_width=12, table_column=_uncut()),
        *counts,
        TimeElapsedColumn(table_column=_uncut()),
        TimeRemainingColumn(table_column=_uncut()),
        _NoteColumn("[dim]{task.fields[note]}"),
        console=stderr,
        disable=quiet,
    )
    task = bar.add_task(title, total=None, note="")

    def progress(done: int, total: int | None, note: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, note=note)
        if lazy and done == total:
            bar.stop()

    try:
        if not lazy:
            bar.start()
        yield progress
    finally:
        bar.stop()


def warn(sentence: str) -> None:
    """Log a warning: something was passed over."""
    logger.warning("%s", sentence)


def print_json(value: object) -> None:
    """One JSON object and a newline on stdout."""
    sys.stdout.buffer.write(orjson.dumps(plain(value), default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def plain(value: object) -> Any:
    """Dataclasses, paths and arrays' scalars as values that JSON can express."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return value.item()
    return value


def facts(title: str, rows: list[tuple[str, str]]) -> Table:
    """A two-column table of names and values."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


size = nbytes

__all__ = [
    "count", "facts", "plain", "print_json", "progress_bar", "size", "stderr", "stdout", "warn",
]  # fmt: skip


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Python's RuntimeWarnings, such as a damaged checkpoint that is passed over, as log lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        show = warnings.showwarning

        def log(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, RuntimeWarning):
                warn(str(message))
            else:
                show(message, category, *place, **more)

        warnings.showwarning = log
        yield
