"""A trainable, a loader and a run directory -> the steps that are left: metrics, evaluations, checkpoints."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headrace.errors import ConfigError
from headrace.model.loss import IGNORED
from headrace.native import Target, native_target
from headrace.stats import StageCount
from headrace.training.checkpoint import CheckpointWriter
from headrace.training.data import HeldOutRows
from headrace.training.metrics import MetricsLog
from headrace.training.mfu import device_peak
from headrace.training.mirror import Mirror
from headrace.training.process_group import ProcessGroup
from headrace.training.state import TrainLoader, restore
from headrace.training.stop import StopSignal
from headrace.training.tensorboard import TensorBoardLog
from headrace.training.trainable import TrainableModel

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
    mfu: float | None
    """Share of the devices' peak that the last step used; None: hardware that the table does not know."""
    stopped_by: str | None
    """Signal that ended it early, after a checkpoint; None when all steps are done."""
    hit_rate: float | None = None
    """Share of the vocabulary that found a vector in `embeddings`; None without."""
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that ran, or "off": Python did the same work."""


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
    eval_rows: int = 64
    tensorboard: bool = False
    """Write RUN/tensorboard too."""

    def __post_init__(self) -> None:
        """Refuse settings that would never save or never end."""
        for name in ("eval_rows", "eval_every", "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train: {name} is {value}; it must be at least 1.")
        if not self.checkpoint_seconds >= 0:
            raise ConfigError(f"train: checkpoint_seconds is {self.checkpoint_seconds}; wanted at least 0.")


class LoaderTimes:
    """Seconds of the loader's threads, beside the steps: since the last step, by stage."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader
        self._before = self._so_far()

    def step(self) -> dict[str, float]:
        """`reading_s` and `decoding_s` since the last call."""
        before, self._before = self._before, self._so_far()
        return {name: max(0.0, self._before[name] - before[name]) for name in before}

    def _so_far(self) -> dict[str, float]:
        stages = self._loader.stages()
        busy = {name: stages.get(name, StageCount()).busy_s for name in ("read", "decode", "gather")}
        # Where blocks are fetched, they are decoded by the fetching threads; else by those that gather rows.
        reading_s = busy["read"] or max(0.0, busy["gather"] - busy["decode"])
        return {"reading_s": reading_s, "decoding_s": busy["decode"]}


def run(
    trainable: TrainableModel,
    loader: TrainLoader,
    *,
    out: Path,
    held: HeldOutRows | None,
    settings: Settings,
    group: ProcessGroup,
    mirror: Mirror | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> RunSummary:
    """Step from the newest whole checkpoint to the end, or until SIGTERM or Ctrl-C, and save.

    Raises:
        ResumeError, CheckpointError, SpaceError: see `restore` and `CheckpointWriter`.
        ConfigError: the loss is no longer a number.
    """
    recipe = trainable.recipe
    eval_every = settings.eval_every or max(1, recipe.steps // 10)
    now = restore(trainable, loader, out, group=group, warn=warn)
    resumed, tokens_before, loss, stopped_by = now.step, now.tokens, None, None
    peak, mfu = device_peak(trainable.device, recipe.dtype), None
    peak = None if peak is None else peak * group.size
    flops_per_token = recipe.model.flops_per_token(recipe.seq_len)
    entered = clock()
    begun = entered - now.elapsed_s  # of all starts, as if without the breaks
    tensors = trainable.tensors()
    with ExitStack() as open_files:
        metrics = None
        logs: list[MetricsLog | TensorBoardLog] = []
        if group.is_rank0:
            metrics = open_files.enter_context(MetricsLog(out / "metrics.jsonl", step=resumed))
            logs.append(metrics)
            if settings.tensorboard:
                logs.append(open_files.enter_context(TensorBoardLog(out / "tensorboard", step=resumed)))
        stop = open_files.enter_context(StopSignal())
        writer = open_files.enter_context(
            CheckpointWriter(
                out / "checkpoints",
                keep=settings.keep,
                group=group.checkpoint_group,
                on_commit=None if metrics is None else metrics.sync,
                mirror=mirror if group.is_rank0 else None,
            )
        )
        writer.warm(tensors)
        batches = iter(loader)
        background = LoaderTimes(loader)
        saved_at = clock()
        while now.step < recipe.steps and stopped_by is None:
            now.step += 1
            start, last = clock(), now.step == recipe.steps
            every = settings.checkpoint_every
            due = clock() - saved_at >= settings.checkpoint_seconds
            did = one_step(
                trainable, batches, step=now.step, group=group, flags=(due, stop.number), clock=clock
            )
            trained, loss = clock(), did.loss
            now.tokens += did.tokens
            line: dict[str, object] = {}
            if held is not None and (now.step % eval_every == 0 or last):
                now.eval_loss = line["eval_loss"] = evaluate(trainable, held, group=group)
                line["eval_s"] = clock() - trained
            stall_s, now.elapsed_s = 0.0, clock() - begun
            stopped_by = signal.Signals(did.stop_number).name if did.stop_number and not last else None
            if last or did.due or stopped_by is not None or (every is not None and now.step % every == 0):
                stall_s = writer.save(now.step, tensors, now.to_json(recipe, loader))
                saved_at = clock()
            step_s = clock() - start
            line = {
                "step": now.step,
                "loss": did.loss,
                "lr": recipe.schedule.lr(now.step),
                "tokens": now.tokens,
                "step_s": step_s,
                "tokens_per_s": did.tokens / step_s,
                "data_wait_s": did.wait_s,
                "compute_s": trained - start - did.wait_s,
                "checkpoint_s": stall_s,
                **background.step(),
                "grad_norm": did.grad_norm,
                "elapsed_s": clock() - begun,
                "position": loader.position,
                **line,
            }
            if peak is not None:
                line["mfu"] = mfu = did.tokens * flops_per_token / (step_s * peak)
            for log in logs:
                log.append(line)
            if progress is not None and group.is_rank0:
                progress(now.step, recipe.steps, say(line))
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
        mfu=mfu,
        stopped_by=stopped_by,
    )


def say(line: Mapping[str, Any]) -> str:
    """One step in a few words, for a terminal.

    >>> say({"loss": 4.5, "tokens_per_s": 12345.6, "data_wait_s": 0.001, "checkpoint_s": 0.02, "step_s": 0.5})
    'loss 4.500 · 12,346 tok/s · data wait 0.2 % · save 20 ms'
    """
    words = [
        f"loss {line['loss']:.3f}",
        f"{line['tokens_per_s']:,.0f} tok/s",
        f"data wait {100 * line['data_wait_s'] / line['step_s']:.1f} %",
    ]
    if "mfu" in line:
        words.append(f"MFU {100 * line['mfu']:.1f} %")
    if line["checkpoint_s"]:
        words.append(f"save {1000 * line['checkpoint_s']:.0f} ms")
    return " · ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One optimizer step, as all ranks agree on it."""

    loss: float
    grad_norm: float
    tokens: int
    """Over all ranks."""
    wait_s: float
    """Spent waiting for the loader, by the rank that waited longest: the others wait for it."""
    due: bool
    """Some rank's clock says that it is time to save."""
    stop_number: int
    """A signal that some rank caught; 0: none."""


def one_step(
    trainable: TrainableModel,
    batches: Iterator[Any],
    *,
    step: int,
    group: ProcessGroup,
    flags: tuple[bool, int],
    clock: Callable[[], float],
) -> StepResult:
    """Take a step's units from the loader one by one, add up their gradients, update.

    Raises:
        ConfigError: the loss is no longer a number; nothing was changed by this step.
    """
    recipe = trainable.recipe
    units = recipe.schedule.units(step)
    wait_s, sums, counted, tokens = 0.0, [], 0, 0
    for unit in range(units):
        asked = clock()
        batch = next(batches)
        wait_s += clock() - asked
        given = {"positions_BT": batch.position_ids, "documents_BT": batch.document_ids}
        sums.append(
            trainable.forward_backward(batch.input_ids, batch.labels, last=unit == units - 1, **given)
        )
        counted += int((batch.labels != IGNORED).sum())
        tokens += batch.global_rows * recipe.seq_len
    square = trainable.finish_gradients()
    loss_sum, share = torch.stack([torch.stack(sums).sum().double(), square]).tolist()
    # One message: what this rank has to say about the step, a row of a small table.
    said = group.gather(
        [
            loss_sum * trainable.speaks,
            counted * trainable.speaks,
            share,
            wait_s,
            float(flags[0]),
            float(flags[1]),
        ]
    )
    (loss_sum, total, square_sum, *_), (*_, wait_s, due, stop) = said.sum(0).tolist(), said.amax(0).tolist()
    loss = loss_sum / max(1.0, total)
    if not math.isfinite(loss) or not math.isfinite(square_sum):
        raise ConfigError(
            f"train: the loss of step {step} is {loss} and the squared gradient norm {square_sum}: training "
            f"has diverged. The checkpoints before are whole; start another run with a lower lr "
            f"(now {recipe.lr}) or a longer warm-up (now {recipe.warmup_steps} steps)."
        )
    norm = trainable.update(lr=recipe.schedule.lr(step), counted=total, square=square_sum)
    return StepResult(
        loss=loss, grad_norm=norm, tokens=tokens, wait_s=wait_s, due=bool(due), stop_number=int(stop)
    )


def evaluate(trainable: TrainableModel, held: HeldOutRows, *, group: ProcessGroup) -> float:
    """Mean loss over the held-out rows, nats per token."""
    sums = counted = 0.0
    for ids, labels in held.batches(trainable.recipe.schedule.unit_rows):
        sums += float(trainable.loss(ids, labels))
        counted += float((labels != IGNORED).sum())
    total, labels_in_all = group.gather([sums * trainable.speaks, counted * trainable.speaks]).sum(0).tolist()
    return float(total / labels_in_all)
