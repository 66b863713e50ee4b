"""The demo's steps -> bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from headrace.formatting import count, duration, percent
from headrace.logs import LineTimer
from headrace.profile import comparison_rows

ProgressFunction = Callable[[int, int | None, str], None]


class DemoDisplay:
    """Shows the demo's steps on a console, by default stderr."""

    def __init__(
        self, *, steps: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._steps = steps
        self._number = 0
        self._clock = clock

    def print(self, line: str = "", *, style: str = "") -> None:
        """Print one line as it is, without markup and wrapping."""
        self.console.print(Text(line, style=style), soft_wrap=True)

    def skip(self, title: str, result: str) -> None:
        """Show a step that an earlier run has finished."""
        self._number += 1
        self._line("=", title, f"{result} (done before)", "", style="dim")

    @contextmanager
    def step(self, title: str) -> Iterator[tuple[ProgressFunction, Callable[[str], None]]]:
        """Show a step while the block runs it.

        Yields:
            progress(done, total, note), and a function that takes the step's result in words, for its last line.
        """
        self._number += 1
        start = self._clock()
        result = [""]
        with self._bar(title) if self.console.is_terminal else self._lines(title) as progress:
            yield progress, lambda text: result.__setitem__(0, text)
        self._line("✓", title, result[0], duration(self._clock() - start), style="")

    def _line(self, mark: str, title: str, result: str, time: str, *, style: str) -> None:
        text = Text(style=style)
        text.append(f"{mark} {self._number}/{self._steps} ", style="green" if mark == "✓" else "")
        text.append(f"{title:<10}", style="bold" if mark == "✓" else "")
        text.append(f" {result}")
        if time:
            text.append(f"  {time}", style="dim")
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def _bar(self, title: str) -> Iterator[ProgressFunction]:
        bar = Progress(
            SpinnerColumn(),
            TextColumn(f"{self._number}/{self._steps} {title:<10}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self.console,
            transient=True,
        )
        with bar:
            task = bar.add_task(title, total=None, note="")

            def progress(done: int, total: int | None, note: str) -> None:
                bar.update(task, completed=done, total=total, note=printable(note)[:40])

            yield progress

    @contextmanager
    def _lines(self, title: str) -> Iterator[ProgressFunction]:
        self.print(f"  {self._number}/{self._steps} {title} ...")
        timer = LineTimer(clock=self._clock)

        def progress(done: int, total: int | None, note: str) -> None:
            if timer.due():
                share = percent(done / total) if total else count(done)
                self.print(f"      {title}: {share} {printable(note)}".rstrip())

        yield progress

    def comparison(self, measured: Mapping[str, Any]) -> None:
        """Print the table that compares the naive loader with headrace's."""
        head = ("same text, same machine", "naive", "headrace", "ratio")
        lines = [head, *((r.quantity, r.naive, r.headrace, r.ratio) for r in comparison_rows(measured))]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        for line in lines:
            styles = ("dim", "dim", "dim") if line is head else ("", "bold", "green")
            text = Text()
            text.append(f"      {line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}", style=styles[0])
            text.append(f"  {line[2]:>{widths[2]}}", style=styles[1])
            text.append(f"  {line[3]:>{widths[3]}}", style=styles[2])
            self.console.print(text, soft_wrap=True)

    def samples(self, samples: Sequence[Mapping[str, Any]], *, lines: int = 6) -> None:
        """Print a few predictions: the end of the prompt, then the generated text."""
        for sample in samples:
            prompt = printable(str(sample["prompt"])).splitlines()[-3:]
            text = Text()
            text.append(f"      {printable(str(sample['prompt_id']))}\n", style="dim")
            text.append("\n".join(f"      | {line}" for line in prompt), style="dim")
            generated = printable(str(sample["text"])).split("\n")
            text.append(generated[0], style="bold cyan")
            for line in generated[1:lines]:
                text.append("\n      | ", style="dim")
                text.append(line, style="bold cyan")
            self.console.print(text, overflow="ellipsis", no_wrap=True, crop=True)
            self.console.print()


def printable(text: str) -> str:
    """Replace the control characters of a text, except newline, so that it is safe to print on a terminal."""
    expanded = text.expandtabs(4)
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in expanded)
