"""Lines of metrics -> TensorBoard's event files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.training.run_directory.tracker_state import curves


class TensorBoardTracker:
    """Writes every number of a metrics line as a curve over steps; a restart hides the steps that it repeats."""

    def __init__(self, directory: Path) -> None:
        # TensorBoard's own switch: else it loads TensorFlow, where installed, to open files.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        # Imported here: it takes a second, and most runs do not need it.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._open = SummaryWriter
        self._directory = directory
        self._is_new = not directory.exists()
        self._writer: Any = None

    def last_step(self, step: int, /) -> int:
        """All before the start, or nothing where there are no files; hides what came after."""
        last = 0 if self._is_new else step
        self._writer = self._open(str(self._directory), purge_step=last + 1)
        return last

    def rewind(self, step: int) -> None:
        """Hide the later steps: they are taken again."""
        self._writer.close()
        self._writer = self._open(str(self._directory), purge_step=step + 1)

    def append(self, line: Mapping[str, Any]) -> None:
        """One step's numbers."""
        for name, value in curves(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
