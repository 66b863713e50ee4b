"""A run directory -> where its run stands: step, tensors, loader position, random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from headrace.errors import CheckpointError
from headrace.model.checkpoint import latest_checkpoint, read_tensors
from headrace.stats import StageCount
from headrace.training.process_group import ProcessGroup
from headrace.training.recipe import Recipe, read_run, refuse_other
from headrace.training.trainable import TrainableModel


class TrainLoader(Protocol):
    """What the loop asks of a loader: batches with input_ids and labels, and where it stands."""

    @property
    def position(self) -> int:
        """Rows of the global order taken so far."""

    def __iter__(self) -> Iterator[Any]:
        """This rank's batches."""

    def state_dict(self) -> Mapping[str, object]:
        """Where it stands, as JSON."""

    def stages(self) -> Mapping[str, StageCount]:
        """Where the time of loading goes, beside the steps."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go there."""


@dataclass(slots=True, kw_only=True)
class TrainState:
    """Where a run stands; with the tensors, all that a checkpoint holds."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    eval_loss: float | None = None

    def to_json(self, recipe: Recipe, loader: TrainLoader) -> dict[str, object]:
        """As it stands in state.json."""
        return {
            "recipe": recipe.to_json(),
            "step": self.step,
            "tokens": self.tokens,
            "elapsed_s": self.elapsed_s,
            "eval_loss": self.eval_loss,
            "loader": dict(loader.state_dict()),
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
        }


def restore(
    trainable: TrainableModel,
    loader: TrainLoader,
    out: Path,
    *,
    group: ProcessGroup,
    warn: Callable[[str], None] | None,
) -> TrainState:
    """Fill trainable and loader from the newest whole checkpoint; a fresh standing when there is none.

    Raises:
        ResumeError: the checkpoint is of another recipe, or the loader's state of another order.
        CheckpointError: tensors that do not fit the model, or no checkpoint of a run that did not begin fresh.
    """
    latest = group.on_rank0(lambda: latest_checkpoint(out / "checkpoints", warn=warn))
    if latest is None:
        if group.on_rank0(lambda: (read_run(out) or {}).get("imported")):
            raise CheckpointError(
                f"{out}: the weights that it begins with are gone or damaged, and no later checkpoint is whole. "
                f"Delete the directory and run the same command again."
            )
        return TrainState()
    directory, state = latest
    if "imported" in state:  # weights alone
        tensors = {name: tensor for name, tensor in trainable.tensors().items() if name.startswith("model.")}
        read_tensors(directory, tensors)
        return TrainState()
    refuse_other(directory, state["recipe"], trainable.recipe.to_json())
    read_tensors(directory, trainable.tensors())
    trainable.set_step(state["step"])
    group.on_all_ranks(lambda: loader.load_state_dict(state["loader"]))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["rng"]), dtype=torch.uint8))
    return TrainState(**{key: state[key] for key in ("step", "tokens", "elapsed_s", "eval_loss")})
