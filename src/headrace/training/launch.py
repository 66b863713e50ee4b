"""Stores and options -> a run directory: refuse what cannot be, build or restore, then run the loop."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from headrace.errors import ConfigError
from headrace.model.checkpoint import step_dir
from headrace.model.embed import read_vectors
from headrace.model.gpt import GPTConfig
from headrace.storage import open_blob
from headrace.training.data import open_data, open_held_out
from headrace.training.layout import Layout
from headrace.training.loop import Progress, RunSummary, Settings, run
from headrace.training.memory import freed_memory_kept
from headrace.training.mirror import Mirror
from headrace.training.pretrained import is_untrained, refuse_tokenizer, resolve_pretrained
from headrace.training.process_group import open_process_group
from headrace.training.recipe import RecipeRequest, read_run
from headrace.training.start import begin, first_table, settle
from headrace.training.trainable import TrainableModel


def train(
    stores: Any,
    *,
    out: str | Path,
    model: str | GPTConfig | None = None,
    init_from: str | PathLike[str] | None = None,
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
    dp: int = -1,
    tp: int = 1,
    pp: int = 1,
    shard: str = "none",
    pipeline: str = "1f1b",
    microbatches: int | None = None,
    recompute: bool = False,
    compile: bool = False,  # the word that torch users type
    embeddings: str | PathLike[str] | None = None,
    eval_stores: Any = None,
    eval_rows: int = 64,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 600.0,
    keep: int = 3,
    tensorboard: bool = False,
    mirror: str | None = None,
    loader_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> RunSummary:
    """Train a model on stores; the same call again continues where the last one stopped or was killed.

    Args:
        stores: a store, its path or URL, several of them, {store: weight}, or a mixture.
        out: run directory (see docs/path.md).
        model: a name of SIZES, or a shape; default tiny, or the shape of init_from.
        init_from: a Hugging Face directory in GPT-2's format, or a run, whose weights the run begins with; its
            tokenizer must be the stores'. An out that `import_model` made begins with what it holds.
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
        accumulate: pieces that a step's rows are fetched and run in, one after the other.
        ramp_from: global rows of the first step; grows to batch_size over ramp_steps.
        ramp_steps: see ramp_from.
        banded: GPT-3's alternating dense and locally banded attention (for a named size).
        dtype: of matrix products: auto, float32 or bfloat16. Weights and optimizer stay float32.
        device: default cuda when there is one, else cpu.
        dp: data-parallel degree; -1: what tp and pp leave of torchrun's processes. This and the next
            seven may change between starts of one run.
        tp: tensor-parallel degree.
        pp: pipeline-parallel degree.
        shard: none (DDP), zero2 or zero3 (FSDP2): what the dp copies share.
        pipeline: schedule: 1f1b, gpipe or interleaved.
        microbatches: pieces that a rank's rows pass the pipeline in.
        recompute: activation checkpointing of each block.
        compile: torch.compile each block.
        embeddings: word2vec vectors or a BERT directory that the token table starts from; how many tokens
            found a vector stands in run.json.
        eval_stores: held-out store; its loss is logged as eval_loss.
        eval_rows: rows of it to evaluate on, evenly spaced, always the same.
        eval_every: steps; default a tenth of the run.
        checkpoint_every: steps between checkpoints; default by time alone.
        checkpoint_seconds: at most this long between checkpoints.
        keep: checkpoints to retain.
        tensorboard: write RUN/tensorboard too.
        mirror: URL of an object store that run.json, tokenizer, metrics and checkpoints are copied to; where
            out has no run, or an older checkpoint, they come from there.
        loader_options: passed to the Loader (packing, shuffle, ...); part of what may not change.
        progress: called as progress(done, total, note) after every step.
        warn: called with a sentence when a damaged checkpoint is passed over, or the mirror cannot be reached;
            default warnings.warn.

    Returns:
        How the run stands.

    Raises:
        ConfigError: options that make no sense together, before any work starts.
        ResumeError: out holds a run of something else; says what differs.
        SpaceError, CheckpointError: a checkpoint could not be written.

    Source: Brown et al. 2020, section 2.3 and appendix B.
    """
    out = Path(out)
    target = own_device(device)
    asking = functools.partial(
        RecipeRequest,
        seq_len=seq_len,
        batch_size=batch_size,
        accumulate=accumulate,
        seed=seed,
        lr=lr,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        floor=floor,
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        clip=clip,
        ramp_from=ramp_from,
        ramp_steps=ramp_steps,
        banded=banded,
    )
    with freed_memory_kept(target), ExitStack() as opened:
        group = opened.enter_context(open_process_group(target))
        settings = group.on_all_ranks(
            lambda: Settings(
                eval_every=eval_every,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                keep=keep,
                eval_rows=eval_rows,
                tensorboard=tensorboard,
            )
        )
        asked_layout = Layout(
            dp=dp,
            tp=tp,
            pp=pp,
            shard=shard,
            schedule=pipeline,
            microbatches=microbatches,
            recompute=recompute,
            compile=compile,
        )
        layout = group.on_all_ranks(lambda: asked_layout.over(group.size))
        copy = None
        if mirror is not None:
            copy = Mirror(group.on_all_ranks(lambda: open_blob(mirror)), out, warn=warn or _warn)
        if copy is not None:
            group.on_rank0(copy.fetch_run)
        found = group.on_rank0(lambda: read_run(out))
        fresh = is_untrained(found)
        pretrained = group.on_rank0(
            lambda: resolve_pretrained(out, found, init_from, alone=model is None and embeddings is None)
        )
        vectors = None if embeddings is None else group.on_all_ranks(lambda: read_vectors(embeddings))
        places = () if found is None or fresh else found["stores"]
        data = opened.enter_context(
            group.on_all_ranks(lambda: open_data(stores, loader_options=loader_options or {}, places=places))
        )
        if pretrained is not None:
            group.on_rank0(lambda: refuse_tokenizer(pretrained, out, data.source.tokenizer))
        first = pretrained.identity if pretrained is not None else None if vectors is None else vectors.source
        asked = asking(model=model or ("tiny" if pretrained is None else pretrained.config), init_from=first)
        settled = functools.partial(
            settle,
            asked,
            data,
            found,
            out=out,
            steps=steps,
            max_seconds=max_seconds,
            dtype=dtype,
            device=target,
        )
        recipe = group.on_all_ranks(settled)
        group.on_all_ranks(lambda: layout.check(recipe))
        mesh = layout.mesh(target)
        rank = 0 if mesh is None else mesh.get_local_rank("dp")
        # Before anything is written: a store may have no row of this length.
        loader = opened.enter_context(
            group.on_all_ranks(
                lambda: data.loader(
                    seq_len=recipe.seq_len,
                    batch_size=recipe.schedule.unit_rows,
                    seed=seed,
                    rank=rank,
                    world_size=layout.dp,
                )
            )
        )
        held = None
        if eval_stores is not None:
            held = group.on_all_ranks(
                lambda: open_held_out(
                    eval_stores,
                    seq_len=recipe.seq_len,
                    rows=settings.eval_rows,
                    rank=rank,
                    world_size=layout.dp,
                )
            )
        table = None if vectors is None else group.on_all_ranks(lambda: first_table(recipe, vectors, data))
        build = functools.partial(
            TrainableModel,
            device=target,
            layout=layout,
            mesh=mesh,
            token_table_VW=None if table is None else table.table_VW,
        )
        torch.manual_seed(seed)
        if fresh and max_seconds is not None:
            fitted = fit_steps(build(recipe), max_seconds)
            fitted = group.on_rank0(lambda: fitted)
            recipe = asked.resolve(
                vocab_size=data.source.vocab_size,
                data=data.describe(),
                steps=fitted if steps is None else min(steps, fitted),
                dtype=recipe.dtype,
            )
        if fresh:
            group.on_rank0(
                lambda: begin(
                    out,
                    recipe,
                    data,
                    max_seconds=max_seconds,
                    device=target,
                    table=table,
                    pretrained=pretrained,
                )
            )
        if copy is not None:
            group.on_rank0(copy.send_run)
            if fresh and pretrained is not None:
                group.on_rank0(lambda: copy.send_checkpoint(step_dir(out / "checkpoints", 0), keep=keep))
            group.on_rank0(copy.fetch_checkpoint)
        trainable = build(recipe)
        summary = run(
            trainable,
            loader,
            out=out,
            held=held,
            settings=settings,
            group=group,
            mirror=copy,
            progress=progress,
            warn=warn,
        )
    return summary if table is None else dataclasses.replace(summary, hit_rate=table.hit_rate)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def own_device(asked: str | None) -> torch.device:
    """This process's device: on a machine of several GPUs, the one of its local rank.

    Raises:
        ConfigError: no such device, or not here.
    """
    wanted = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"train: no device named {wanted!r}. Give cpu or cuda, or leave it out.") from error
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"train: device {wanted!r}, number {local}, but torch sees {torch.cuda.device_count()} GPUs "
                f"here. Start at most that many processes a machine, or give cpu."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    return device


def fit_steps(
    trainable: TrainableModel, max_seconds: float, *, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Optimizer steps that fit into max_seconds here, measured on random ids; the trainable is spent."""
    recipe = trainable.recipe
    rows = recipe.schedule.unit_rows
    rows //= trainable.layout.dp
    ids = torch.randint(recipe.model.vocab_size, (rows, recipe.seq_len + 1))
    took: list[float] = []
    # Long enough that a moment in which the machine is busy with something else does not decide.
    while len(took) < 5 or sum(took) < min(3.0, max_seconds / 40):
        begun = clock()
        for _ in range(recipe.accumulate):
            trainable.forward_backward(ids[:, :-1], ids[:, 1:])
        float(trainable.finish_gradients())  # waits for the device
        trainable.update(lr=0.0, counted=1.0, square=0.0)
        took.append(clock() - begun)
    return max(1, int(max_seconds / statistics.median(took[1:])))
