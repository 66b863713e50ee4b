"""Stores and options -> a run directory: check the options, build or restore the model, run the loop."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from os import PathLike
from typing import Final

import torch

from headrace.model import ModelConfig, meta_lora_model
from headrace.paths import local_path, remote_url
from headrace.training.checkpoints.state import read_frozen, restore
from headrace.training.data import TrainingStores
from headrace.training.distributed.process_group import open_process_group
from headrace.training.evaluation_options import EvaluationOptions
from headrace.training.loop import Progress, run_loop
from headrace.training.loop_files import LoopFiles
from headrace.training.optim import describe_groups
from headrace.training.options import (
    CheckpointOptions,
    DataOptions,
    OptimizerOptions,
    ParallelOptions,
    RunOptions,
    check_steps,
)
from headrace.training.prepare import (
    RunSetup,
    TrainArguments,
    open_directory,
    open_inputs,
    open_rows,
    resolve_parallel,
    resolve_request,
    with_layout,
)
from headrace.training.recipe import Recipe, RecipeRequest
from headrace.training.remote_run import RemoteRun
from headrace.training.run_directory.run_json import read_run
from headrace.training.run_directory.run_log import RunLog
from headrace.training.run_directory.segments import RunSegment, recipe_at
from headrace.training.samples import Sampler
from headrace.training.shape_options import ShapeOptions
from headrace.training.start import (
    Limits,
    begin_run,
    continue_run,
    describe_changes,
    describe_machine,
    measure_steps,
    resolve_steps,
    warn_of_surprises,
)
from headrace.training.step.device import resolve_device
from headrace.training.step.divergence import positions_after
from headrace.training.step.memory import freed_memory_kept
from headrace.training.step.trainable import TrainableModel
from headrace.training.summary import RunSummary

_CURE: Final = "Give a local directory, or an s3://, gs:// or az:// URL."


def train(
    stores: TrainingStores,
    *,
    out: str | PathLike[str],
    model: str | ModelConfig | ShapeOptions | None = None,
    init_from: str | PathLike[str] | None = None,
    steps: int | None = None,
    data: DataOptions = DataOptions(),
    optimizer: OptimizerOptions = OptimizerOptions(),
    parallel: ParallelOptions = ParallelOptions(),
    checkpoint: CheckpointOptions = CheckpointOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    run: RunOptions = RunOptions(),
    progress: Progress | None = None,
) -> RunSummary:
    """Train a model on stores; the same call again continues where the last one stopped or was killed.

    Args:
        stores: a store, its path or URL, several of them, {store: weight}, or a mixture.
        out: run directory, or its s3://, gs:// or az:// URL (see docs/train.md).
        model: a name of SIZES or DECODER_SIZES, or a shape; default tiny, or the shape of init_from.
        init_from: a Hugging Face directory, peft's adapter directory, or a run (RUN, RUN@STEP, RUN@best), to begin
            with; its tokenizer must be the stores'. With run.init_state="full" moments and position are kept too.
        steps: optimizer steps in all; or give run.tokens or run.max_seconds.
        data: rows: their length, number and packing.
        optimizer: learning rate, AdamW, clipping, gradient accumulation, batch ramp-up; this, steps, batch_size and
            the next three may change between starts of one run, for the steps that follow (run.json records it).
        parallel: how processes share the work.
        checkpoint: how often, how many, and where they are copied.
        evaluation: held-out stores.
        run: seed, dtype, device, time, and LoRA.
        progress: called as progress(done, total, note) after every step.

    Returns:
        The state of the run when the call ends.

    Raises:
        ConfigError: options that do not fit together, before any work starts.
        ResumeError: out holds a run of something else; says what differs.
        SpaceError, CheckpointError: a checkpoint could not be read or written.
        WorkerError: another process of the run died.

    Source: Brown et al. 2020, section 2.3 and appendix B.
    """
    check_steps(steps)
    evaluation.check_whole()
    device = resolve_device(run.device)
    with freed_memory_kept(device), ExitStack() as stack:
        log = stack.enter_context(RunLog())
        group = stack.enter_context(open_process_group(device))
        url = remote_url(out)
        remote = None
        if url is not None:
            remote = RemoteRun(url, group=group, log=log.add_event, warn=log.add_warning)
        setup = RunSetup(
            out=local_path(out, name="train: out", cure=_CURE) if remote is None else remote.directory,
            remote=remote,
            device=device,
            group=group,
            log=log,
            stack=stack,
        )
        options = TrainArguments(
            model=model,
            init_from=init_from,
            limits=Limits(steps=steps, tokens=run.tokens, max_seconds=run.max_seconds),
            data=data,
            optimizer=optimizer,
            parallel=group.on_all_ranks(lambda: resolve_parallel(parallel, group.size)),
            checkpoint=checkpoint,
            evaluation=evaluation,
            run=run,
        )
        open_directory(setup, options)
        options, request = open_inputs(setup, options, stores)
        recipe = resolve_request(setup, options, request)
        options, request, recipe = with_layout(setup, options, request, recipe)
        open_rows(setup, options, recipe)
        segments = _begin(setup, options, request, recipe)
        return _run(setup, options, segments, progress)


def _begin(
    setup: RunSetup, options: TrainArguments, request: RecipeRequest, recipe: Recipe
) -> list[RunSegment]:
    """Measure the steps of a fresh run, and write run.json of any; returns the run's segments."""
    group, out, limits = setup.group, setup.out, options.limits
    torch.manual_seed(recipe.seed)
    is_fresh = setup.is_fresh
    if is_fresh and limits.max_seconds is not None:
        measured = measure_steps(_build(setup, options, recipe, initialize=True), limits.max_seconds)
        measured = group.on_rank0(lambda: measured)
        recipe = resolve_steps(request, setup.data, limits, dtype=recipe.dtype, measured=measured)
    if group.is_rank0:
        warmup_given = options.optimizer.warmup_steps is not None
        warn_of_surprises(
            setup.log,
            recipe,
            num_rows=setup.loader.num_rows,
            warmup_given=warmup_given,
            cuts_conversations=setup.data.cuts_conversations,
        )
    machine = describe_machine(options.parallel, setup.device, num_processes=group.size, dtype=recipe.dtype)
    machine["parameter_groups"] = describe_groups(
        (
            (name, parameter)
            for name, parameter in meta_lora_model(recipe.model, recipe.lora).named_parameters()
            if parameter.requires_grad
        ),
        recipe.optimizer_settings,
    )
    machine["plan"] = None if setup.choice is None else setup.choice.record

    def write() -> list[RunSegment]:
        if is_fresh:
            segments = begin_run(
                out, recipe, setup.data, max_seconds=limits.max_seconds, table=setup.table,
                pretrained=setup.pretrained, machine=machine,
            )  # fmt: skip
        else:
            if setup.branch is not None:
                setup.saved = setup.branch.write(out)
            segments = continue_run(
                out, setup.existing or {}, recipe, step=setup.step, limits=limits, machine=machine
            )
        setup.log.open(out / "train.log")
        if setup.choice is not None:
            setup.log.add_event(setup.choice.note)
        if setup.branch is not None:
            setup.notes.append(setup.branch.note)
        elif is_fresh and setup.pretrained is not None:
            setup.notes.append(
                f"begins with the weights of {setup.pretrained.name}; moments, position and step begin anew"
            )
        setup.notes += describe_changes(segments, setup.step)
        for note in setup.notes:
            setup.log.add_event(note)
        return segments

    segments = group.on_rank0(write)
    remote = setup.remote
    if remote is not None:
        group.on_rank0(remote.send_beginning)
    setup.existing = group.on_rank0(lambda: read_run(out))
    mirror = setup.mirror
    if mirror is not None:
        keep = options.checkpoint.keep_checkpoints
        group.on_rank0(lambda: mirror.send_beginning(keep=keep))
    if is_fresh or setup.branch is not None:
        setup.find_saved_state()
    return segments


def _build(setup: RunSetup, options: TrainArguments, recipe: Recipe, *, initialize: bool) -> TrainableModel:
    return TrainableModel(
        recipe,
        setup.device,
        parallel=options.parallel,
        mesh=setup.mesh,
        token_table_VW=None if setup.table is None else setup.table.table_VW,
        initialize=initialize,
    )


def _run(
    setup: RunSetup, options: TrainArguments, segments: list[RunSegment], progress: Progress | None
) -> RunSummary:
    """Build the model, restore the newest checkpoint, and take the steps that are left."""
    group, out, saved, run = setup.group, setup.out, setup.saved, setup.existing or {}
    recipe = recipe_at(segments, setup.step + 1)
    setup.loader.batch_size = recipe.schedule.micro_batch_size
    model = _build(setup, options, recipe, initialize=saved is None)
    read_frozen(model, out, (run.get("base") or {}).get("checkpoint"), group=group)
    state = restore(model, setup.loader, saved, group=group)
    sampler, evaluation = None, options.evaluation
    if setup.prompts is not None:
        every = evaluation.sample_every or max(1, segments[-1].recipe.steps // 10)
        sampler = Sampler(setup.prompts, evaluation, every=every, out=out, seed=recipe.seed)
    files = LoopFiles(
        out=out,
        checkpoint=options.checkpoint,
        track=options.run.track,
        run=run,
        mirror=setup.mirror,
        remote=setup.remote,
        log=setup.log,
        first_checkpoint=run.get("first_checkpoint"),
        positions=positions_after(run),
        sampler=sampler,
        resumed=None if saved is None else saved.step,
    )
    summary = run_loop(
        model,
        setup.loader,
        state,
        segments=segments,
        files=files,
        group=group,
        held_out=setup.held_out,
        evaluation=evaluation,
        eval_every=evaluation.eval_every or max(1, segments[-1].recipe.steps // 10),
        progress=progress,
    )
    hit_rate = None if setup.table is None else setup.table.hit_rate
    remote = setup.remote
    if remote is not None:
        group.on_rank0(remote.send_last_logs)
        summary = dataclasses.replace(summary, out=remote.url)
    return dataclasses.replace(summary, hit_rate=hit_rate, notes=tuple(setup.notes))
