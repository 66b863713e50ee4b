"""Lines of metrics -> TensorBoard's event files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

_NOT_CURVES = {"step", "elapsed_s", "position", "tokens", "skipped"}


class TensorBoardLog:
    """Writes every number of a metrics line as a curve over steps; a restart hides the steps that it repeats."""

    def __init__(self, directory: Path, *, step: int) -> None:
        # TensorBoard's own switch: else it loads TensorFlow, where installed, to open files.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        # Imported here: it takes a second, and most runs do not need it.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._open = SummaryWriter
        self._directory = str(directory)
        self._writer: Any = self._open(self._directory, purge_step=step + 1)

    def rewind(self, step: int) -> None:
        """Hide the later steps: they are taken again."""
        self._writer.close()
        self._writer = self._open(self._directory, purge_step=step + 1)

    def append(self, line: Mapping[str, Any]) -> None:
        """One step's numbers."""
        for name, value in line.items():
            if name not in _NOT_CURVES and value is not None:
                self._writer.add_scalar(name, value, line["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
