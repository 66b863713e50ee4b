"""Stores and options -> a run directory: validate, build or reopen, then step until done or told to stop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from headrace.errors import ConfigError
from headrace.model.checkpoint import latest_checkpoint, read_tensors
from headrace.model.gpt import GPT, GPTConfig, init_weights
from headrace.model.sizes import gpt_config
from headrace.train.checkpoint import CheckpointWriter
from headrace.train.data import Data, Held, open_data, open_held
from headrace.train.metrics import MetricsLog
from headrace.train.recipe import (
    DECAY_TOKENS,
    WARMUP_TOKENS,
    Recipe,
    read_run,
    refuse_other,
    size_of,
    write_run,
)
from headrace.train.step import Learner, resolve_dtype
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


class Batches(Protocol):
    """What the loop asks of a loader."""

    position: int

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def train(
    stores: Any,
    *,
    out: str | Path,
    model: str | GPTConfig = "tiny",
    seq_len: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    lr: float | None = None,
    warmup_steps: int | None = None,
    decay_steps: int | None = None,
    floor: float = 0.1,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    clip: float | None = 1.0,
    accumulate: int = 1,
    ramp_from: int | None = None,
    ramp_steps: int = 0,
    banded: bool = False,
    dtype: str = "auto",
    device: str | None = None,
    compile: bool = False,  # noqa: A002  # the word that torch users type
    eval_stores: Any = None,
    eval_rows: int = 64,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 600.0,
    keep: int = 3,
    loader_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> RunSummary:
    """Train a model on stores; the same call again continues where the last one stopped or was killed.

    Args:
        stores: a store, its path or URL, or {store: weight}.
        out: run directory (see docs/path.md).
        model: a name of SIZES, or a shape.
        seq_len: tokens of a row; default the size's context.
        batch_size: global rows of an optimizer step; default the paper's tokens.
        steps: optimizer steps in all.
        max_seconds: instead of (or below) steps: the step time is measured first and the number of
            steps that fit is written into run.json, where a restart finds it.
        seed: of weights and order.
        lr: peak learning rate; default the paper's for the size.
        warmup_steps: default the paper's 375 M tokens, at most a tenth of the steps.
        decay_steps: where the cosine reaches its floor; default the paper's 260 G tokens, at most steps.
        floor: share of lr that the cosine ends at.
        weight_decay: on matrices only.
        betas: of AdamW.
        eps: of AdamW.
        clip: largest gradient norm; None to leave it.
        accumulate: pieces that a step's rows run in, one after the other.
        ramp_from: global rows of the first step; grows to batch_size over ramp_steps.
        ramp_steps: see ramp_from.
        banded: GPT-3's alternating dense and locally banded attention.
        dtype: of matrix products: auto, float32 or bfloat16. Weights and optimizer stay float32.
        device: default cuda when there is one, else cpu.
        compile: torch.compile the model.
        eval_stores: held-out store; its loss is logged as eval_loss.
        eval_rows: rows of it to evaluate on, evenly spaced, always the same.
        eval_every: steps; default a tenth of the run.
        checkpoint_every: steps between checkpoints; default by time alone.
        checkpoint_seconds: at most this long between checkpoints.
        keep: checkpoints to retain.
        loader_options: passed to the Loader (packing, shuffle, ...); part of what may not change.
        progress: called as progress(done, total, note) after every step.
        warn: called with a sentence when a damaged checkpoint is passed over; default warnings.warn.

    Returns:
        How the run stands.

    Raises:
        ConfigError: options that make no sense together, before any work starts.
        ResumeError: out holds a run of something else; says what differs.
        SpaceError, CheckpointError: a checkpoint could not be written.

    Source: Brown et al. 2020, section 2.3 and appendix B.
    """
    out = Path(out)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = size_of(model)
    seq_len = seq_len or size.context
    batch_size = batch_size or max(1, round(size.batch_tokens / seq_len))
    if steps is None and max_seconds is None:
        raise ConfigError("train: neither steps nor max_seconds is given; one of them must end the run.")
    for name, value in (("steps", steps), ("seq_len", seq_len), ("batch_size", batch_size), ("keep", keep)):
        if value is not None and value < 1:
            raise ConfigError(f"train: {name} is {value}; it must be at least 1.")
    if accumulate < 1 or batch_size % accumulate:
        raise ConfigError(f"train: batch_size {batch_size} is not divisible by accumulate {accumulate}.")
    found = read_run(out)
    with open_data(stores, loader_options=loader_options or {}) as data:
        if isinstance(model, GPTConfig):
            config, name = model, "custom"
            if config.vocab_size < data.vocab_size:
                raise ConfigError(
                    f"train: the store's vocabulary has {data.vocab_size} ids, the model {config.vocab_size}."
                )
        else:
            config, name = (
                gpt_config(model, vocab_size=data.vocab_size, context=seq_len, banded=banded),
                model,
            )
        if config.context < seq_len:
            raise ConfigError(
                f"train: seq_len {seq_len} is longer than the model's context {config.context}."
            )
        tokens = batch_size * seq_len

        def recipe_for(steps: int, dtype: str) -> Recipe:
            return Recipe(
                model=config,
                model_name=name,
                data=data.describe(),
                seq_len=seq_len,
                batch_size=batch_size,
                accumulate=accumulate,
                steps=steps,
                seed=seed,
                lr=size.learning_rate if lr is None else lr,
                warmup_steps=min(-(-WARMUP_TOKENS // tokens), max(1, steps // 10))
                if warmup_steps is None
                else warmup_steps,
                decay_steps=min(steps, -(-DECAY_TOKENS // tokens)) if decay_steps is None else decay_steps,
                floor=floor,
                weight_decay=weight_decay,
                betas=betas,
                eps=eps,
                clip=clip,
                ramp_from=ramp_from,
                ramp_steps=ramp_steps,
                dtype=dtype,
            )

        if found is not None:
            # What a machine's speed decided at the first start stays decided.
            was = found["recipe"]
            timed = max_seconds is not None and found["max_seconds"] == max_seconds
            recipe = recipe_for(
                was["steps"] if timed or steps is None else steps,
                was["dtype"] if dtype == "auto" else resolve_dtype(dtype, target),
            )
            refuse_other(
                out,
                {**was, "max_seconds": found["max_seconds"]},
                {**recipe.to_json(), "max_seconds": max_seconds},
            )
        else:
            recipe = recipe_for(steps or 1, resolve_dtype(dtype, target))
        _ = recipe.schedule  # refuses what does not fit together
        torch.manual_seed(seed)
        learner = build(recipe, target, compile=compile)
        if found is None:
            if max_seconds is not None:
                fitted = fit_steps(learner, max_seconds)
                recipe = recipe_for(fitted if steps is None else min(steps, fitted), recipe.dtype)
                learner = build(recipe, target, compile=compile)
            out.mkdir(parents=True, exist_ok=True)
            data.save_tokenizer(out / "tokenizer")
            write_run(
                out,
                {
                    "recipe": recipe.to_json(),
                    "max_seconds": max_seconds,
                    "parameters": config.num_parameters,
                    "stores": data.urls,
                    "device": str(target),
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                },
            )
        held = None if eval_stores is None else open_held(eval_stores, seq_len=seq_len, rows=eval_rows)
        loader = data.loader(
            seq_len=seq_len, batch_size=batch_size // accumulate, seed=seed, rank=0, world_size=1
        )
        try:
            return run(
                learner,
                loader,
                out=out,
                held=held,
                eval_every=eval_every or max(1, recipe.steps // 10),
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                keep=keep,
                progress=progress,
                warn=warn,
            )
        finally:
            loader.close()


def build(recipe: Recipe, device: torch.device, *, compile: bool) -> Learner:  # noqa: A002
    """A fresh model on its device, with its optimizer."""
    model = GPT(recipe.model, seed=recipe.seed).to(device)
    if compile:
        model.compile()
    return Learner(model=model, recipe=recipe, device=device)


def fit_steps(learner: Learner, max_seconds: float, *, clock: Callable[[], float] = time.perf_counter) -> int:
    """Optimizer steps that fit into max_seconds here, measured on random ids; the learner is spent."""
    recipe = learner.recipe
    rows = recipe.schedule.unit_rows
    ids = torch.randint(recipe.model.vocab_size, (rows, recipe.seq_len + 1), device=learner.device)
    took = []
    for _ in range(5):
        start = clock()
        for _ in range(recipe.accumulate):
            loss, counted = learner.forward_backward(ids[:, :-1], ids[:, 1:])
        learner.update(lr=0.0, counted=float(counted))
        loss.item()  # waits for the device
        took.append(clock() - start)
    return max(1, int(max_seconds / statistics.median(took[1:])))


def run(
    learner: Learner,
    loader: Batches,
    *,
    out: Path,
    held: Held | None,
    eval_every: int,
    checkpoint_every: int | None,
    checkpoint_seconds: float,
    keep: int,
    progress: Progress | None,
    warn: Callable[[str], None] | None,
    clock: Callable[[], float] = time.perf_counter,
) -> RunSummary:
    """Step from the latest whole checkpoint to the end."""
    recipe, schedule = learner.recipe, learner.recipe.schedule
    tensors = learner.tensors()
    begun = clock()
    resumed, elapsed_before, tokens, eval_loss = 0, 0.0, 0, None
    if (latest := latest_checkpoint(out / "checkpoints", warn=warn)) is not None:
        directory, state = latest
        read_tensors(directory, tensors)
        resumed, elapsed_before, tokens = state["step"], state["elapsed_s"], state["tokens"]
        eval_loss = state["eval_loss"]
        learner.set_step(resumed)
        torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["rng"]), dtype=torch.uint8))
        loader.load_state_dict(state["loader"])
    step, loss, tokens_before = resumed, None, tokens
    with (
        MetricsLog(out / "metrics.jsonl", step=resumed) as metrics,
        StopSignal() as stop,
        CheckpointWriter(out / "checkpoints", keep=keep, on_commit=metrics.sync) as writer,
    ):
        writer.warm(tensors)

        def state_now() -> dict[str, object]:
            return {
                "step": step,
                "tokens": tokens,
                "elapsed_s": elapsed_before + clock() - begun,
                "eval_loss": eval_loss,
                "loader": loader.state_dict(),
                "rng": bytes(torch.get_rng_state().tolist()).hex(),
            }

        batches = iter(loader)
        saved, saved_at = resumed, clock()
        while step < recipe.steps and stop.name is None:
            step += 1
            start = clock()
            wait_s, sums, counts, rows = 0.0, [], [], 0
            for _ in range(schedule.units(step)):
                asked = clock()
                batch = next(batches)
                wait_s += clock() - asked
                ids, labels = batch.input_ids.to(learner.device), batch.labels.to(learner.device)
                loss_sum, counted = learner.forward_backward(ids, labels)
                sums.append(loss_sum)
                counts.append(counted)
                rows += ids.shape[0]
            total = float(torch.stack(counts).sum())
            norm = learner.update(lr=schedule.lr(step), counted=total)
            loss, grad_norm = float(torch.stack(sums).sum()) / max(1.0, total), float(norm)
            trained = clock()
            tokens += rows * recipe.seq_len
            line: dict[str, object] = {}
            if held is not None and (step % eval_every == 0 or step == recipe.steps):
                eval_loss = line["eval_loss"] = evaluate(learner, held, rows=schedule.unit_rows)
            stall_s = 0.0
            if (
                (checkpoint_every is not None and step % checkpoint_every == 0)
                or clock() - saved_at >= checkpoint_seconds
                or step == recipe.steps
            ):
                stall_s = writer.save(step, tensors, state_now())
                saved, saved_at = step, clock()
            step_s = clock() - start
            metrics.append(
                {
                    "step": step,
                    "loss": loss,
                    "lr": schedule.lr(step),
                    "tokens": tokens,
                    "step_s": step_s,
                    "tokens_per_s": rows * recipe.seq_len / step_s,
                    "data_wait_s": wait_s,
                    "compute_s": trained - start - wait_s,
                    "checkpoint_s": stall_s,
                    "grad_norm": grad_norm,
                    "elapsed_s": elapsed_before + clock() - begun,
                    "position": loader.position,
                    **line,
                }
            )
            if progress is not None:
                progress(step, recipe.steps, f"loss {loss:.3f}")
        if saved != step:  # told to stop
            writer.save(step, tensors, state_now())
    wall_s = clock() - begun
    return RunSummary(
        out=out,
        steps=step,
        total_steps=recipe.steps,
        tokens=tokens,
        loss=loss,
        eval_loss=eval_loss,
        parameters=recipe.model.num_parameters,
        tokens_per_s=(tokens - tokens_before) / wall_s,
        wall_s=wall_s,
        resumed_from=resumed,
        stopped_by=stop.name if step < recipe.steps else None,
    )


def evaluate(learner: Learner, held: Held, *, rows: int) -> float:
    """Mean loss over the held-out rows, nats per token."""
    sums, counted = 0.0, 0.0
    for ids, labels in held.batches(rows):
        loss, count = learner.loss(ids.to(learner.device), labels.to(learner.device))
        sums += float(loss)
        counted += float(count)
    return sums / counted
