"""The story's steps -> lines and bars on stderr: live on a terminal, plain and sparse elsewhere."""

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

from headrace.profile.rivals import rows as rival_rows
from headrace.profile.where import duration

ProgressFunction = Callable[[int, int | None, str], None]
PLAIN_EVERY_S = 10.0
"""Seconds between two progress lines where stderr is not a terminal."""


class Stage:
    """Where the story is told."""

    def __init__(
        self, *, steps: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._steps = steps
        self._number = 0
        self._clock = clock

    def say(self, line: str = "", *, style: str = "") -> None:
        """One line, as it is: no markup, no wrapping."""
        self.console.print(Text(line, style=style), soft_wrap=True)

    def skip(self, title: str, found: str) -> None:
        """A step that an earlier run has done."""
        self._number += 1
        self._line("=", title, f"{found} (done before)", "", style="dim")

    @contextmanager
    def step(self, title: str) -> Iterator[tuple[ProgressFunction, Callable[[str], None]]]:
        """Show a step while the block runs it.

        Yields:
            progress(done, total, note), and a function that takes what the step
            found, in words, for its last line.
        """
        self._number += 1
        start = self._clock()
        words = [""]
        with self._bar(title) if self.console.is_terminal else self._plain(title) as progress:
            yield progress, lambda text: words.__setitem__(0, text)
        self._line("✓", title, words[0], duration(self._clock() - start), style="")

    def _line(self, mark: str, title: str, found: str, took: str, *, style: str) -> None:
        text = Text(style=style)
        text.append(f"{mark} {self._number}/{self._steps} ", style="green" if mark == "✓" else "")
        text.append(f"{title:<10}", style="bold" if mark == "✓" else "")
        text.append(f" {found}")
        if took:
            text.append(f"  {took}", style="dim")
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
    def _plain(self, title: str) -> Iterator[ProgressFunction]:
        self.say(f"  {self._number}/{self._steps} {title} ...")
        last = self._clock()

        def progress(done: int, total: int | None, note: str) -> None:
            nonlocal last
            if self._clock() - last >= PLAIN_EVERY_S:
                last = self._clock()
                share = f"{100 * done / total:.0f} %" if total else f"{done:,}"
                self.say(f"      {title}: {share} {printable(note)}".rstrip())

        yield progress

    def rivals(self, naive: Mapping[str, Any]) -> None:
        """The table "naive against headrace"."""
        head = ("same text, same machine", "naive", "headrace", "ratio")
        lines = [head, *((row.what, row.naive, row.ours, row.ratio) for row in rival_rows(naive))]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        for line in lines:
            styles = ("dim", "dim", "dim") if line is head else ("", "bold", "green")
            text = Text()
            text.append(f"      {line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}", style=styles[0])
            text.append(f"  {line[2]:>{widths[2]}}", style=styles[1])
            text.append(f"  {line[3]:>{widths[3]}}", style=styles[2])
            self.console.print(text, soft_wrap=True)

    def samples(self, samples: Sequence[Mapping[str, Any]], *, lines: int = 6) -> None:
        """A few predictions: the end of the prompt, then what the model wrote."""
        for sample in samples:
            prompt = printable(str(sample["prompt"])).splitlines()[-3:]
            text = Text()
            text.append(f"      {printable(str(sample['prompt_id']))}\n", style="dim")
            text.append("\n".join(f"      | {line}" for line in prompt), style="dim")
            written = printable(str(sample["text"])).split("\n")
            text.append(written[0], style="bold cyan")
            for line in written[1:lines]:
                text.append("\n      | ", style="dim")
                text.append(line, style="bold cyan")
            self.console.print(text, overflow="ellipsis", no_wrap=True, crop=True)
            self.console.print()


def printable(text: str) -> str:
    """Text from outside, made safe to print: no control character reaches the terminal but newline."""
    expanded = text.expandtabs(4)
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in expanded)
