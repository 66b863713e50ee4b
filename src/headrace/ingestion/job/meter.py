"""What workers report -> the caller's progress: source bytes done, and a note with speed and counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.work.intake import Progress

Progressing: TypeAlias = Callable[[int, int | None, str], None]


class Meter:
    """Calls `progress` as the work gets on; its figures never go back."""

    def __init__(self, progress: Progressing | None, *, total: int, doing: str = "starting") -> None:
        self._progress = progress
        self._doing = doing
        self._total = total
        self._stored = self._text = self._documents = self._tokens = 0
        self._resumed_text = 0
        self._start = time.perf_counter()
        if progress is not None:
            progress(0, total, doing)

    def done(self, record: UnitRecord) -> None:
        """A unit of an earlier run."""
        self._stored += record.stored_bytes
        self._resumed_text += record.text_bytes
        self._documents += record.documents
        self._tokens += record.tokens

    def passed(self, passed: Progress) -> None:
        """A worker has got on."""
        self._stored += passed.stored_bytes
        self._text += passed.text_bytes
        self._documents += passed.documents
        self._tokens += passed.tokens
        if self._progress is not None:
            seconds = max(time.perf_counter() - self._start, 1e-9)
            note = self._doing
            if self._documents:
                speed, tokens = self._text / 1e6 / seconds, self._tokens / 1e6
                note = f"{speed:.0f} MB/s, {self._documents:,} documents, {tokens:.1f} M tokens"
            self._progress(min(self._stored, self._total), self._total, note)

    def finish(self) -> None:
        """All units are done."""
        self._stored = self._total
        self.passed(Progress())
