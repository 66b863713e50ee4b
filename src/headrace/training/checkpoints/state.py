"""A run directory -> the state its run is in: step, tensors, loader position, random numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from headrace.errors import CheckpointError, ResumeError
from headrace.model import latest_checkpoint, read_tensors, verify_base
from headrace.stats import StageCount
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.recipe import Recipe, identity_of
from headrace.training.run_directory.metrics import METRICS, last_step
from headrace.training.run_directory.run_json import RUN, check_same
from headrace.training.step.trainable import TrainableModel


class TrainLoader(Protocol):
    """What training uses of a loader."""

    @property
    def position(self) -> int:
        """Rows of the global order taken so far."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch over all ranks; it may be set between batches."""

    @batch_size.setter
    def batch_size(self, rows: int) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        """This rank's batches."""

    def state_dict(self) -> Mapping[str, object]:
        """The position, as JSON."""

    def stages(self) -> Mapping[str, StageCount]:
        """Time of the loader's threads by stage."""

    def seek(self, position: int) -> None:
        """Continue at a position."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue at a saved position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A whole checkpoint: its directory, and its state.json."""

    directory: Path
    content: Mapping[str, Any]

    @property
    def has_weights_only(self) -> bool:
        """Whether it is the step 0 of an imported model."""
        return "imported" in self.content

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return 0 if self.has_weights_only else int(self.content["step"])

    @property
    def tokens(self) -> int:
        """Tokens that these steps read, over all ranks."""
        return 0 if self.has_weights_only else int(self.content["tokens"])


@dataclass(slots=True, kw_only=True)
class TrainState:
    """Progress of a run; with the tensors, all that a checkpoint holds."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    eval_loss: float | None = None
    """Of the last evaluation."""
    eval_step: int | None = None
    """Step of the last evaluation."""
    updates: int = 0
    """Steps whose update was not left out."""
    left_out: int = 0
    """Updates left out, one after the other, up to the last step."""
    recent: list[list[float]] = field(default_factory=list)
    """(loss, gradient norm) of the last good steps, where spikes are looked for."""
    best: dict[str, Any] | None = None
    """Step, eval_loss and held-out rows of the lowest held-out loss."""
    evaluations_since_best: int = 0

    def add_evaluation(self, loss: float, held_out: str) -> bool:
        """Compare a held-out loss with the best one over the same rows; returns whether it is lower."""
        self.eval_loss, self.eval_step = loss, self.step
        if self.best is None or self.best["held_out"] != held_out or loss < self.best["eval_loss"]:
            if not math.isfinite(loss):
                return False
            self.best = {"step": self.step, "eval_loss": loss, "held_out": held_out}
            self.evaluations_since_best = 0
            return True
        self.evaluations_since_best += 1
        return False

    def add_good_step(self, loss: float, norm: float, window: int) -> None:
        """Count an update; keep its numbers where a window is given."""
        self.updates += 1
        self.left_out = 0
        self.recent = [*self.recent, [loss, norm]][-window:] if window else []

    def to_json(self, recipe: Recipe, loader: TrainLoader) -> dict[str, object]:
        """The content of state.json."""
        return {
            "recipe": recipe.to_json(),
            "step": self.step,
            "tokens": self.tokens,
            "elapsed_s": self.elapsed_s,
            "eval_loss": self.eval_loss,
            "eval_step": self.eval_step,
            "updates": self.updates,
            "left_out": self.left_out,
            "recent": self.recent,
            "best": self.best,
            "evaluations_since_best": self.evaluations_since_best,
            "loader": dict(loader.state_dict()),
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
        }


def find_saved_state(out: Path, run: Mapping[str, Any], *, warn: Callable[[str], None]) -> SavedState | None:
    """The newest whole checkpoint of a run; None for one that has not reached its first.

    Raises:
        CheckpointError: the run had one, and none is whole: it would begin again without a word.
    """
    latest = latest_checkpoint(out / "checkpoints", warn=warn)
    if latest is not None:
        return SavedState(directory=latest[0], content=latest[1])
    error = no_checkpoint_error(out, run, reached=last_step(out / METRICS))
    if error is not None:
        raise error
    return None


def no_checkpoint_error(
    out: Path | str, run: Mapping[str, Any], *, reached: int | None
) -> CheckpointError | None:
    """Why a run without a whole checkpoint must not begin at step 0; None where it has not reached its first.

    Args:
        out: path or URL of the run.
        run: its run.json.
        reached: the last step that its metrics have.
    """
    if run.get("imported") and not run.get("base"):
        return CheckpointError(
            f"{out}: the weights that it begins with are gone or damaged, and no later checkpoint is whole. "
            f"Delete the directory and run the same command again."
        )
    if run.get("first_checkpoint") is not None:
        how_far = "" if reached is None else f" and reached step {reached}"
        return CheckpointError(
            f"{out}: the run had checkpoints from step {run['first_checkpoint']} on{how_far}, "
            f"but {out}/checkpoints has no whole one. Put its checkpoints back (or give the --mirror that has "
            f"them) and run the same command again, or begin at step 0 with --restart, which deletes the run."
        )
    return None


def check_fresh(out: Path, steps: Sequence[int], *, own: int | None) -> None:
    """Refuse a directory without run.json that has the metrics or the checkpoints of a run.

    A new run would overwrite the metrics, and go on from the checkpoints.

    Args:
        out: the run directory.
        steps: of the checkpoints in it.
        own: step of the checkpoint that a start writes before run.json; an earlier try may have ended there.

    Raises:
        ResumeError: says what is there.
    """
    reached = last_step(out / METRICS)
    if reached is not None:
        raise ResumeError(
            f"{out}: {METRICS} has the steps of a run, up to step {reached}, but there is no {RUN}. Put {RUN} back "
            f"(or give the --mirror that has it) and run the same command again, or begin at step 0 with --restart, "
            "which deletes the run."
        )
    found = [step for step in steps if step != own]
    if found:
        raise ResumeError(
            f"{out}: has a checkpoint of step {max(found)}, but neither {RUN} nor {METRICS}. Put {RUN} back and run "
            "the same command again, or give another directory with --out."
        )


def read_frozen(model: TrainableModel, out: Path, expected: object, *, group: ProcessGroup) -> None:
    """Fill the weights that do not learn from the run's one copy of them; nothing where all learn.

    Args:
        model: to be filled.
        out: the run directory.
        expected: hash of the copy's manifest, as run.json has it.
        group: the processes.

    Raises:
        CheckpointError: the copy is gone, damaged, or does not fit the model.
    """
    tensors = model.frozen_tensors()
    if tensors:
        directory = group.on_rank0(lambda: verify_base(out, expected))
        group.on_all_ranks(lambda: read_tensors(directory, tensors))


def restore(
    model: TrainableModel, loader: TrainLoader, saved: SavedState | None, *, group: ProcessGroup
) -> TrainState:
    """Fill model and loader from a checkpoint; a fresh state without one.

    Raises:
        ResumeError: the checkpoint is of another recipe, or the loader's state of another order.
        CheckpointError: tensors that do not fit the model.
    """
    if saved is None:
        return TrainState()
    state = saved.content
    tensors = model.tensors()
    if saved.has_weights_only:
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    else:
        check_same(saved.directory, identity_of(state["recipe"]), identity_of(model.recipe.to_json()))
    # Every rank reads for itself, as fast as its disk is; only then do collectives begin.
    group.on_all_ranks(lambda: read_tensors(saved.directory, tensors))
    if saved.has_weights_only:
        return TrainState()
    model.set_step(state["updates"])
    group.on_all_ranks(lambda: loader.load_state_dict(state["loader"]))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["rng"]), dtype=torch.uint8))
    names = [entry.name for entry in fields(TrainState)]
    return TrainState(**copy.deepcopy({name: state[name] for name in names if name in state}))
