"""The stack -> whether a method was called by Lightning.

Lightning asks a loader for its length and iterates it in ways that differ from a `for` loop: it counts the batches
before a resume itself, and takes one batch ahead of whatever has no length. Nothing in its calls says so but where they
come from.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

_LIGHTNING: Final = ("lightning", "pytorch_lightning", "lightning_fabric")
_BETWEEN: Final = ("headrace", "torch.utils.data")


def called_by_lightning() -> bool:
    """Whether the nearest caller outside of headrace and torch's DataLoader is a module of Lightning."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the public inspect.currentframe is slower
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(_BETWEEN):
            return name.partition(".")[0] in _LIGHTNING
        frame = frame.f_back
    return False
