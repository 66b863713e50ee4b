"""A learner, a loader and a run directory -> the steps that are left: metrics, evaluations, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from headrace.errors import ConfigError
from headrace.model.checkpoint import latest_checkpoint, read_tensors
from headrace.train.checkpoint import CheckpointWriter
from headrace.train.data import Held
from headrace.train.metrics import MetricsLog
from headrace.train.step import Learner
from headrace.train.stop import StopSignal

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run stands when train() returns."""

    out: Path
    steps: int
    """Optimizer steps done, over all starts."""
    total_steps: int
    tokens: int
    """Tokens trained on, over all starts."""
    loss: float | None
    """Of the last step, nats per token; None when nothing was left to do."""
    eval_loss: float | None
    parameters: int
    tokens_per_s: float
    """Of this start."""
    wall_s: float
    """Of this start."""
    resumed_from: int
    """Step that this start continued from; 0 for a fresh run."""
    stopped_by: str | None
    """Signal that ended it early, after a checkpoint; None when all steps are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What may change between starts of one run: it does not touch the loss."""

    eval_every: int | None = None
    """Steps; default a tenth of the run."""
    checkpoint_every: int | None = None
    """Steps; default by time alone."""
    checkpoint_seconds: float = 600.0
    keep: int = 3
    """Checkpoints to retain."""

    def __post_init__(self) -> None:
        """Refuse settings that would never save or never end."""
        for name in ("eval_every", "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train: {name} is {value}; it must be at least 1.")


class Batches(Protocol):
    """What the loop asks of a loader: batches with input_ids and labels, and where it stands."""

    @property
    def position(self) -> int:
        """Rows of the global order taken so far."""

    def __iter__(self) -> Iterator[Any]:
        """This rank's batches."""

    def state_dict(self) -> Mapping[str, object]:
        """Where it stands, as JSON."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go there."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """Where a run stands; with the tensors, all that a checkpoint holds."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    eval_loss: float | None = None

    def to_json(self, loader: Batches) -> dict[str, object]:
        """As it stands in state.json."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "elapsed_s": self.elapsed_s,
            "eval_loss": self.eval_loss,
            "loader": dict(loader.state_dict()),
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
        }


def reopen(learner: Learner, loader: Batches, out: Path, *, warn: Callable[[str], None] | None) -> Standing:
    """Fill learner and loader from the newest whole checkpoint; a fresh standing when there is none.

    Raises:
        ResumeError: the loader's state belongs to another order.
        CheckpointError: tensors that do not fit the model.
    """
    latest = latest_checkpoint(out / "checkpoints", warn=warn)
    if latest is None:
        return Standing()
    directory, state = latest
    read_tensors(directory, learner.tensors())
    learner.set_step(state["step"])
    loader.load_state_dict(state["loader"])
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["rng"]), dtype=torch.uint8))
    return Standing(**{key: state[key] for key in ("step", "tokens", "elapsed_s", "eval_loss")})


def run(
    learner: Learner,
    loader: Batches,
    *,
    out: Path,
    held: Held | None,
    settings: Settings,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> RunSummary:
    """Step from the newest whole checkpoint to the end, or until SIGTERM or Ctrl-C, and save.

    Raises:
        ResumeError, CheckpointError, SpaceError: see `reopen` and `CheckpointWriter`.
    """
    recipe, schedule = learner.recipe, learner.recipe.schedule
    eval_every = settings.eval_every or max(1, recipe.steps // 10)
    now = reopen(learner, loader, out, warn=warn)
    resumed, tokens_before, loss = now.step, now.tokens, None
    entered = clock()
    begun = entered - now.elapsed_s  # of all starts, as if without the breaks
    tensors = learner.tensors()
    with (
        MetricsLog(out / "metrics.jsonl", step=resumed) as metrics,
        StopSignal() as stop,
        CheckpointWriter(out / "checkpoints", keep=settings.keep, on_commit=metrics.sync) as writer,
    ):
        writer.warm(tensors)
        batches = iter(loader)
        saved, saved_at = resumed, clock()
        while now.step < recipe.steps and stop.name is None:
            now.step += 1
            start, last = clock(), now.step == recipe.steps
            did = one_step(learner, batches, step=now.step, clock=clock)
            trained, loss = clock(), did.loss
            now.tokens += did.tokens
            line: dict[str, object] = {}
            if held is not None and (now.step % eval_every == 0 or last):
                now.eval_loss = line["eval_loss"] = evaluate(learner, held)
                line["eval_s"] = clock() - trained
            stall_s, now.elapsed_s = 0.0, clock() - begun
            every = settings.checkpoint_every
            if (
                last
                or (every is not None and now.step % every == 0)
                or clock() - saved_at >= settings.checkpoint_seconds
            ):
                stall_s = writer.save(now.step, tensors, now.to_json(loader))
                saved, saved_at = now.step, clock()
            step_s = clock() - start
            metrics.append(
                {
                    "step": now.step,
                    "loss": did.loss,
                    "lr": schedule.lr(now.step),
                    "tokens": now.tokens,
                    "step_s": step_s,
                    "tokens_per_s": did.tokens / step_s,
                    "data_wait_s": did.wait_s,
                    "compute_s": trained - start - did.wait_s,
                    "checkpoint_s": stall_s,
                    "grad_norm": did.grad_norm,
                    "elapsed_s": clock() - begun,
                    "position": loader.position,
                    **line,
                }
            )
            if progress is not None:
                progress(now.step, recipe.steps, f"loss {did.loss:.3f}")
        if saved != now.step:  # told to stop
            now.elapsed_s = clock() - begun
            writer.save(now.step, tensors, now.to_json(loader))
    wall_s = clock() - entered
    return RunSummary(
        out=out,
        steps=now.step,
        total_steps=recipe.steps,
        tokens=now.tokens,
        loss=loss,
        eval_loss=now.eval_loss,
        parameters=recipe.model.num_parameters,
        tokens_per_s=(now.tokens - tokens_before) / wall_s,
        wall_s=wall_s,
        resumed_from=resumed,
        stopped_by=stop.name if now.step < recipe.steps else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """One optimizer step, as the metrics tell it."""

    loss: float
    grad_norm: float
    tokens: int
    """Over all ranks."""
    wait_s: float
    """Spent waiting for the loader."""


def one_step(learner: Learner, batches: Iterator[Any], *, step: int, clock: Callable[[], float]) -> StepDone:
    """Take a step's units from the loader one by one, add up their gradients, update."""
    recipe = learner.recipe
    wait_s, sums, counts, tokens = 0.0, [], [], 0
    for _ in range(recipe.schedule.units(step)):
        asked = clock()
        batch = next(batches)
        wait_s += clock() - asked
        loss_sum, counted = learner.forward_backward(
            batch.input_ids,
            batch.labels,
            positions_BT=getattr(batch, "position_ids", None),
            documents_BT=getattr(batch, "document_ids", None),
        )
        sums.append(loss_sum)
        counts.append(counted)
        tokens += batch.global_rows * recipe.seq_len
    total = float(torch.stack(counts).sum())
    norm = learner.update(lr=recipe.schedule.lr(step), counted=total)
    return StepDone(
        loss=float(torch.stack(sums).sum()) / max(1.0, total),
        grad_norm=float(norm),
        tokens=tokens,
        wait_s=wait_s,
    )


def evaluate(learner: Learner, held: Held) -> float:
    """Mean loss over the held-out rows, nats per token."""
    sums = counted = 0.0
    for ids, labels in held.batches(learner.recipe.schedule.unit_rows):
        loss, count = learner.loss(ids, labels)
        sums += float(loss)
        counted += float(count)
    return sums / counted
