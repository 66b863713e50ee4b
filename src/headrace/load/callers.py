"""The stack -> whether a method was called by Lightning or accelerate.

Lightning asks a loader for its length and iterates it in ways that differ from a `for` loop: it counts the batches
before a resume itself, and takes one batch ahead of whatever has no length. Nothing in its calls says so but where they
come from. The same is true of accelerate's DataLoaders, which shard what they iterate and read a batch ahead.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

_LIGHTNING: Final = ("lightning", "pytorch_lightning", "lightning_fabric")
_LIGHTNING_READS: Final = (".utilities.combined_loader", ".loops.fetchers")
_BETWEEN: Final = ("headrace", "torch.utils.data")

WITH_ACCELERATE: Final = (
    "accelerate shards the batches of a DataLoader among processes and reads one ahead; the loader has sharded them "
    "already, and its state would be one batch too far. Give accelerate the loader itself: "
    "model, optimizer, loader = accelerator.prepare(model, optimizer, loader), not to prepare_data_loader or "
    "skip_first_batches; accelerator.register_for_checkpointing(loader) keeps its position. With transformers, train "
    "by headrace.interop.hf.Trainer(...)"
)


WITH_LIGHTNING: Final = (
    "Lightning does not know the position of a loader that another iterable hands on: a resumed run would read from "
    "the beginning, or one batch too far. Give it the loader itself: trainer.fit(model, loader). What is done to a "
    "batch goes into the module's on_before_batch_transfer, or into headrace.interop.torch.dataloader(loader, "
    "collate_fn=...)"
)


def called_by_lightning() -> bool:
    """Whether the nearest caller outside of headrace and torch's DataLoader is a module of Lightning."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the public inspect.currentframe is slower
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(_BETWEEN):
            return name.partition(".")[0] in _LIGHTNING
        frame = frame.f_back
    return False


def iterated_by_accelerate() -> bool:
    """Whether a DataLoader of accelerate is on the stack that shards or reads ahead of what it iterates.

    Looks at the whole stack: a dataset or generator of the user's stands between accelerate and the loader.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        if frame.f_globals.get("__name__") == "accelerate.data_loader":
            owner = type(frame.f_locals.get("self")).__name__
            return owner != "SkipDataLoader"  # `skip_first_batches`: takes each batch as it comes
        frame = frame.f_back
    return False


def called_by_accelerate() -> bool:
    """Whether the caller of the method that asks is a module of accelerate."""
    name: str = sys._getframe(2).f_globals.get("__name__", "")  # noqa: SLF001
    return name.startswith("accelerate.")


def read_by_lightning() -> bool:
    """Whether the nearest of Lightning's modules on the stack is one that reads batches.

    A loop over a loader in a hook or a callback is the user's own: there another module is the nearest.
    """
    return _reads(handed_on=True)


def handed_on_to_lightning() -> bool:
    """Whether Lightning iterates something of another package or the user's that iterates a loader; see above."""
    return _reads(handed_on=False)


def _reads(*, handed_on: bool) -> bool:
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    is_handed_on = handed_on
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in _LIGHTNING:
            return is_handed_on and name.endswith(_LIGHTNING_READS)
        is_handed_on |= not name.startswith(_BETWEEN)
        frame = frame.f_back
    return False
