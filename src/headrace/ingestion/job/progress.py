"""Progress of the workers -> the caller's progress: source bytes done, and a note with speed and counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from headrace.ingestion.build.document_reader import UnitProgress
from headrace.ingestion.units.record import UnitRecord

ProgressCallback: TypeAlias = Callable[[int, int | None, str], None]


class ProgressMeter:
    """Calls `progress` with figures that never decrease."""

    def __init__(self, progress: ProgressCallback | None, *, total: int, phase: str = "starting") -> None:
        self._progress = progress
        self._phase = phase
        self._total = total
        self._stored = self._text = self._documents = self._tokens = 0
        self._resumed_text = 0
        self._start = time.perf_counter()
        if progress is not None:
            progress(0, total, phase)

    def add_resumed(self, record: UnitRecord) -> None:
        """Count a unit of an earlier run."""
        self._stored += record.stored_bytes
        self._resumed_text += record.text_bytes
        self._documents += record.documents
        self._tokens += record.tokens

    def add(self, progress: UnitProgress) -> None:
        """Count work of this run."""
        self._stored += progress.stored_bytes
        self._text += progress.text_bytes
        self._documents += progress.documents
        self._tokens += progress.tokens
        if self._progress is not None:
            seconds = max(time.perf_counter() - self._start, 1e-9)
            note = self._phase
            if self._documents:
                speed, tokens = self._text / 1e6 / seconds, self._tokens / 1e6
                note = f"{speed:.0f} MB/s, {self._documents:,} documents, {tokens:.1f} M tokens"
            self._progress(min(self._stored, self._total), self._total, note)

    def finish(self) -> None:
        """All units are done."""
        self._stored = self._total
        self.add(UnitProgress())
