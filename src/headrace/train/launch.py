"""Stores and options -> a run directory: refuse what cannot be, build or reopen, then run the loop."""

from __future__ import annotations

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
from headrace.model.embed import TokenTable, WordVectors, read_vectors, token_table
from headrace.model.gpt import GPTConfig, fresh_weight
from headrace.store import open_blob
from headrace.train.data import Data, open_data, open_held
from headrace.train.layout import Layout
from headrace.train.loop import Progress, RunSummary, Settings, run
from headrace.train.mirror import Mirror
from headrace.train.recipe import Asked, Recipe, read_run, refuse_other, write_run
from headrace.train.step import Learner, resolve_dtype
from headrace.train.world import open_world


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
    dp: int = -1,
    tp: int = 1,
    pp: int = 1,
    shard: str = "none",
    pipeline: str = "1f1b",
    microbatches: int | None = None,
    recompute: bool = False,
    compile: bool = False,  # noqa: A002  # the word that torch users type
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
    vectors = None if embeddings is None else read_vectors(embeddings)
    asked = Asked(
        model=model,
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
        init_from=None if vectors is None else vectors.source,
    )
    settings = Settings(
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        checkpoint_seconds=checkpoint_seconds,
        keep=keep,
        tensorboard=tensorboard,
    )
    with ExitStack() as opened:
        world = opened.enter_context(open_world(target))
        layout = Layout(
            dp=dp,
            tp=tp,
            pp=pp,
            shard=shard,
            schedule=pipeline,
            microbatches=microbatches,
            recompute=recompute,
            compile=compile,
        ).over(world.size)
        copy = None if mirror is None else Mirror(open_blob(mirror), out, warn=warn or _warn)
        if copy is not None:
            world.led(copy.fetch_run)
        found = world.led(lambda: read_run(out))
        places = () if found is None else found["stores"]
        data = opened.enter_context(
            world.agreed(lambda: open_data(stores, loader_options=loader_options or {}, places=places))
        )
        if found is None:
            recipe = first_recipe(
                asked, data, steps=steps, max_seconds=max_seconds, dtype=dtype, device=target
            )
        else:
            recipe = again(
                asked, data, found, out=out, steps=steps, max_seconds=max_seconds, dtype=dtype, device=target
            )
        layout.check(recipe)
        mesh = layout.mesh(target)
        rank = 0 if mesh is None else mesh.get_local_rank("dp")
        held = None
        if eval_stores is not None:
            held = world.agreed(
                lambda: open_held(
                    eval_stores, seq_len=recipe.seq_len, rows=eval_rows, rank=rank, world_size=layout.dp
                )
            )
        table = None if vectors is None else first_table(recipe, vectors, data)
        build = functools.partial(
            Learner,
            device=target,
            layout=layout,
            mesh=mesh,
            token_table_VW=None if table is None else table.table_VW,
        )
        torch.manual_seed(seed)
        if found is None and max_seconds is not None:
            fitted = fit_steps(build(recipe), max_seconds)
            fitted = world.led(lambda: fitted)
            recipe = asked.resolve(
                vocab_size=data.source.vocab_size,
                data=data.describe(),
                steps=fitted if steps is None else min(steps, fitted),
                dtype=recipe.dtype,
            )
        if found is None:
            world.led(lambda: begin(out, recipe, data, max_seconds=max_seconds, device=target, table=table))
        if copy is not None:
            world.led(copy.send_run)
            world.led(copy.fetch_checkpoint)
        learner = build(recipe)
        loader = opened.enter_context(
            data.loader(
                seq_len=recipe.seq_len,
                batch_size=recipe.schedule.unit_rows,
                seed=seed,
                rank=rank,
                world_size=layout.dp,
            )
        )
        return run(
            learner,
            loader,
            out=out,
            held=held,
            settings=settings,
            world=world,
            mirror=copy,
            progress=progress,
            warn=warn,
        )


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def own_device(asked: str | None) -> torch.device:
    """This process's device: on a machine of several GPUs, the one of its local rank."""
    if asked is None and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    return torch.device(asked or "cpu")


def first_recipe(
    asked: Asked,
    data: Data,
    *,
    steps: int | None,
    max_seconds: float | None,
    dtype: str,
    device: torch.device,
) -> Recipe:
    """The recipe of a fresh run; with max_seconds its steps are still to be measured.

    Raises:
        ConfigError: neither steps nor max_seconds, or options that make no sense.
    """
    if steps is None and max_seconds is None:
        raise ConfigError("train: neither steps nor max_seconds is given; one of them must end the run.")
    return asked.resolve(
        vocab_size=data.source.vocab_size,
        data=data.describe(),
        steps=1 if steps is None else steps,
        dtype=resolve_dtype(dtype, device),
    )


def first_table(recipe: Recipe, vectors: WordVectors, data: Data) -> TokenTable:
    """The token table that a run with embeddings starts from."""
    shape = (recipe.model.vocab_size, recipe.model.width)
    fresh = fresh_weight("tok.weight", shape, num_layers=recipe.model.num_layers, seed=recipe.seed)
    return token_table(vectors, data.source.tokenizer, fresh)


def begin(
    out: Path,
    recipe: Recipe,
    data: Data,
    *,
    max_seconds: float | None,
    device: torch.device,
    table: TokenTable | None,
) -> None:
    """Make the run directory: tokenizer, run.json."""
    out.mkdir(parents=True, exist_ok=True)
    data.save_tokenizer(out / "tokenizer")
    write_run(
        out,
        {
            "recipe": recipe.to_json(),
            "max_seconds": max_seconds,
            "parameters": recipe.model.num_parameters,
            "flops_per_token": recipe.model.flops_per_token(recipe.seq_len),
            "embeddings": None
            if table is None
            else {"found": int(table.hit.sum()), "tokens": len(table.hit), "hit_rate": table.hit_rate},
            "stores": data.places,
            "device": str(device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    )


def again(
    asked: Asked,
    data: Data,
    found: Mapping[str, Any],
    *,
    out: Path,
    steps: int | None,
    max_seconds: float | None,
    dtype: str,
    device: torch.device,
) -> Recipe:
    """The recipe of a run that was started before, if the same is asked for now.

    What the machine decided at the first start (steps that fit a time, the dtype of auto) stays decided.

    Raises:
        ResumeError: something else is asked for; says what differs.
    """
    was = found["recipe"]
    recipe = asked.resolve(
        vocab_size=data.source.vocab_size,
        data=data.describe(),
        steps=was["steps"] if steps is None or max_seconds is not None else steps,
        dtype=was["dtype"] if dtype == "auto" else resolve_dtype(dtype, device),
    )
    refuse_other(
        out,
        {**was, "max_seconds": found["max_seconds"]},
        {**recipe.to_json(), "max_seconds": max_seconds},
    )
    return recipe


def fit_steps(learner: Learner, max_seconds: float, *, clock: Callable[[], float] = time.perf_counter) -> int:
    """Optimizer steps that fit into max_seconds here, measured on random ids; the learner is spent."""
    recipe = learner.recipe
    rows = recipe.schedule.unit_rows
    rows //= learner.layout.dp
    ids = torch.randint(recipe.model.vocab_size, (rows, recipe.seq_len + 1))
    took: list[float] = []
    # Long enough that a moment in which the machine is busy with something else does not decide.
    while len(took) < 5 or sum(took) < min(3.0, max_seconds / 40):
        begun = clock()
        for _ in range(recipe.accumulate):
            learner.forward_backward(ids[:, :-1], ids[:, 1:])
        float(learner.finish_gradients())  # waits for the device
        learner.update(lr=0.0, counted=1.0, square=0.0)
        took.append(clock() - begun)
    return max(1, int(max_seconds / statistics.median(took[1:])))
