"""A model and batches -> one optimizer step, as all ranks agree on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from headrace.model import IGNORED
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.step.divergence import divergence_of
from headrace.training.step.trainable import TrainableModel


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One optimizer step, as all ranks agree on it."""

    loss: float
    grad_norm: float
    tokens: int
    """Over all ranks."""
    wait_s: float
    """Time waiting for the loader, of the rank that waited longest: the others wait for it."""
    save_due: bool
    """It is time to save by some rank's clock."""
    stop_signal: int
    """A signal that some rank got; 0: none."""
    diverged: str | None
    """Why this step changed no weights; None where it did."""


def train_step(
    model: TrainableModel,
    batches: Iterator[Any],
    *,
    step: int,
    recent: Sequence[Sequence[float]],
    group: ProcessGroup,
    save_due: bool,
    stop_signal: int,
    clock: Callable[[], float],
) -> StepResult:
    """Take a step's micro-batches from the loader one by one, add up their gradients, update.

    A step that diverged changes nothing, and says so (see `divergence_of`).
    """
    recipe = model.recipe
    micro_batches = recipe.schedule.micro_batches_at(step)
    wait_s, sums, counted, tokens = 0.0, [], 0, 0
    for number in range(micro_batches):
        start = clock()
        batch = next(batches)
        wait_s += clock() - start
        masks = {"positions_BT": batch.position_ids, "documents_BT": batch.document_ids}
        is_last = number == micro_batches - 1
        sums.append(model.forward_backward(batch.input_ids, batch.labels, last=is_last, **masks))
        counted += int((batch.labels != IGNORED).sum())
        tokens += batch.global_rows * recipe.seq_len
    square = model.finish_gradients()
    loss_sum, share = torch.stack([torch.stack(sums).sum().double(), square]).tolist()
    # One message: a row of a small table from each rank.
    counts = float(model.counts_loss)
    table = group.gather(
        [loss_sum * counts, counted * counts, share, wait_s, float(save_due), float(stop_signal)]
    )
    (loss_sum, total, square_sum, *_), (*_, wait_s, due, stop) = (
        table.sum(0).tolist(),
        table.amax(0).tolist(),
    )
    loss = loss_sum / max(1.0, total)
    norm = model.grad_norm(counted=total, square=square_sum) if math.isfinite(square_sum) else math.nan
    diverged = divergence_of(loss, norm, recent, recipe)
    if diverged is None:
        model.update(lr=recipe.schedule.lr_at(step), counted=total, square=square_sum)
    else:
        model.drop_gradients()
    return StepResult(
        loss=loss,
        grad_norm=norm,
        tokens=tokens,
        wait_s=wait_s,
        save_due=bool(due),
        stop_signal=int(stop),
        diverged=diverged,
    )
