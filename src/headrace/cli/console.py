"""Results -> a terminal's tables and bars on stderr, or one JSON object on stdout."""

from __future__ import annotations

import dataclasses
import os
import sys
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

stdout = Console()
stderr = Console(stderr=True)

ProgressFunction: TypeAlias = Callable[[int, int | None, str], None]


def _whole() -> Column:
    """A column that a narrow terminal does not cut."""
    return Column(no_wrap=True)


_COLUMNS = 60
"""Characters that the bar, the counts, the speed and the times take."""


class _Note(TextColumn):
    """What is cut on a narrow terminal, so that the bar stays one line."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.truncate(max(stderr.width - len(task.description) - _COLUMNS, 8), overflow="ellipsis")
        return text


@contextmanager
def progress_bar(title: str, *, unit: str = "items", quiet: bool = False) -> Iterator[ProgressFunction]:
    """A bar on stderr while the block runs; silent when stderr is no terminal.

    Args:
        title: what is being done, a verb phrase.
        unit: "bytes" shows sizes and MB/s, anything else counts.
        quiet: show nothing.

    Yields:
        progress(done, total, note): total None while unknown.
    """
    counts: list[ProgressColumn] = (
        [DownloadColumn(table_column=_whole()), TransferSpeedColumn(table_column=_whole())]
        if unit == "bytes"
        else [MofNCompleteColumn(table_column=_whole())]
    )
    bar = Progress(
        TextColumn("{task.description}", table_column=_whole()),
        BarColumn(bar_width=12, table_column=_whole()),
        *counts,
        TimeElapsedColumn(table_column=_whole()),
        TimeRemainingColumn(table_column=_whole()),
        _Note("[dim]{task.fields[note]}"),
        console=stderr,
        disable=quiet or not stderr.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None, note="")

        def progress(done: int, total: int | None, note: str) -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield progress


def share_cores() -> None:
    """Let threads that wait for each other give their core away soon; before torch is loaded.

    GNU's OpenMP spins for milliseconds, so that two jobs on one machine hold each other's cores: two of 6,000 short
    prompts took 176 s, and 11 s with this; alone a job is as fast. What the user has set stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def warn(sentence: str) -> None:
    """One line on stderr about something that was passed over."""
    print(f"headrace: {sentence}", file=sys.stderr)


def print_json(value: object) -> None:
    """One JSON object and a newline on stdout."""
    sys.stdout.buffer.write(orjson.dumps(plain(value), default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def plain(value: object) -> Any:
    """Frozen values, paths and arrays' scalars as what JSON knows."""
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


def count(number: float) -> str:
    """Thousands apart.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,.0f}"


def size(nbytes: float) -> str:
    """Bytes in decimal units.

    >>> size(1_234_567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 1000 or unit == "TB":
            return f"{nbytes:,.0f} {unit}" if unit == "B" else f"{nbytes:,.1f} {unit}"
        nbytes /= 1000
    raise AssertionError
