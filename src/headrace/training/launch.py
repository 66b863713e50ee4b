"""Stores and options -> a run directory: check the options, build or restore the model, run the loop."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from headrace.errors import ConfigError
from headrace.load import Loader
from headrace.model import ModelConfig, TokenTable, WordVectors, config_from_json, read_vectors
from headrace.paths import local_path
from headrace.storage import open_blob
from headrace.training.branch import Branch, check_branch, open_branch
from headrace.training.data import TrainingData, open_data
from headrace.training.device import resolve_device
from headrace.training.evaluation import HeldOutRows, open_held_out
from headrace.training.layout import check_layout, device_mesh
from headrace.training.layout_choice import LayoutChoice, choose_layout, earlier_choice
from headrace.training.loop import LoopFiles, Progress, run_loop
from headrace.training.memory import freed_memory_kept
from headrace.training.mirror import Mirror, reachable
from headrace.training.options import (
    CheckpointOptions,
    DataOptions,
    EvaluationOptions,
    OptimizerOptions,
    ParallelOptions,
    RunOptions,
    check_steps,
)
from headrace.training.pretrained import Pretrained, check_tokenizer, is_untrained, resolve_pretrained
from headrace.training.process_group import ProcessGroup, open_process_group
from headrace.training.recipe import Recipe, RecipeRequest
from headrace.training.run_json import RUN, read_run
from headrace.training.run_lock import RunLock
from headrace.training.run_log import RunLog
from headrace.training.segments import RunSegment, recipe_at
from headrace.training.start import (
    Limits,
    begin_run,
    continue_run,
    describe_changes,
    describe_machine,
    first_table,
    measure_steps,
    resolve_recipe,
    resolve_steps,
    warn_of_surprises,
)
from headrace.training.state import SavedState, find_saved_state, restore
from headrace.training.summary import RunSummary
from headrace.training.trainable import TrainableModel


def train(
    stores: Any,
    *,
    out: str | PathLike[str],
    model: str | ModelConfig | None = None,
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
        out: run directory (see docs/train.md).
        model: a name of SIZES, or a shape; default tiny, or the shape of init_from.
        init_from: a Hugging Face directory, or a run (RUN, RUN@STEP, RUN@best), to begin with; its tokenizer must
            be the stores'. With run.init_state="full" moments and position are kept too.
        steps: optimizer steps in all; or give run.tokens or run.max_seconds.
        data: rows: their length, number and packing.
        optimizer: learning rate, AdamW, clipping, gradient accumulation, batch ramp-up; this, steps, batch_size and
            the next three may change between starts of one run, for the steps that follow (run.json records it).
        parallel: how processes share the work.
        checkpoint: how often, how many, and where they are copied.
        evaluation: held-out stores.
        run: seed, dtype, device, time.
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
    device = resolve_device(run.device)
    with freed_memory_kept(device), ExitStack() as stack:
        log = stack.enter_context(RunLog())
        group = stack.enter_context(open_process_group(device))
        setup = _Setup(
            out=local_path(
                out,
                name="train: out",
                cure="Write the run to a local directory; mirror (--mirror URL) copies it to an object store.",
            ),
            device=device,
            group=group,
            log=log,
            stack=stack,
        )
        options = _Options(
            model=model,
            init_from=init_from,
            limits=Limits(steps=steps, tokens=run.tokens, max_seconds=run.max_seconds),
            data=data,
            optimizer=optimizer,
            parallel=group.on_all_ranks(lambda: _resolved(parallel, group.size)),
            checkpoint=checkpoint,
            evaluation=evaluation,
            run=run,
        )
        _open_directory(setup, options)
        if options.parallel.layout == "auto" and not setup.is_fresh:
            setup.choice = earlier_choice(setup.existing, parallel, processes=group.size)
        request = _open_inputs(setup, options, stores)
        recipe = _resolve(setup, options, request)
        options, request, recipe = _with_layout(setup, options, request, recipe)
        _open_rows(setup, options, recipe)
        segments = _begin(setup, options, request, recipe)
        return _run(setup, options, segments, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The arguments of `train`, as one value."""

    model: str | ModelConfig | None
    init_from: str | PathLike[str] | None
    limits: Limits
    data: DataOptions
    optimizer: OptimizerOptions
    parallel: ParallelOptions
    """Resolved: dp is known, except with layout auto before the choice."""
    checkpoint: CheckpointOptions
    evaluation: EvaluationOptions
    run: RunOptions


@dataclass(kw_only=True)
class _Setup:
    """What the steps below open, one after the other."""

    out: Path
    device: torch.device
    group: ProcessGroup
    log: RunLog
    stack: ExitStack
    mirror: Mirror | None = None
    existing: dict[str, Any] | None = None
    """run.json of an earlier start."""
    saved: SavedState | None = None
    """The checkpoint to go on from."""
    branch: Branch | None = None
    """Another run's checkpoint, to be copied: `existing` and `saved` are of that run until then."""
    notes: list[str] = field(default_factory=list)
    """What this start begins with or changes: on rank 0."""
    pretrained: Pretrained | None = None
    vectors: WordVectors | None = None
    table: TokenTable | None = None
    data: TrainingData = field(init=False)
    choice: LayoutChoice | None = None
    """Of layout auto."""
    mesh: DeviceMesh | None = None
    dp_rank: int = 0
    loader: Loader = field(init=False)
    held_out: HeldOutRows | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether no step was trained and no recipe written yet."""
        return is_untrained(self.existing)

    @property
    def step(self) -> int:
        """Steps done by earlier starts."""
        return 0 if self.saved is None else self.saved.step


def _open_directory(setup: _Setup, options: _Options) -> None:
    """Lock the run directory, and read what an earlier start left there or on the mirror."""
    group, out, run = setup.group, setup.out, options.run

    def lock() -> None:
        setup.stack.enter_context(RunLock(out))

    group.on_rank0(lock)
    if options.checkpoint.mirror is not None:
        url = options.checkpoint.mirror
        mirror = Mirror(group.on_all_ranks(lambda: open_blob(url)), out, warn=setup.log.add_warning)
        group.on_rank0(lambda: reachable(url, mirror.fetch_run))
        setup.mirror = mirror
    setup.existing = existing = group.on_rank0(lambda: read_run(out))
    if existing is None and run.init_state == "full":
        if options.init_from is None:
            raise ConfigError("train: init_state full goes on from a run. Give its directory as init_from.")
        source = options.init_from
        setup.branch = group.on_rank0(lambda: open_branch(source, warn=setup.log.add_warning))
        setup.existing, setup.saved = setup.branch.run, setup.branch.saved
    elif existing is not None:
        group.on_rank0(lambda: check_branch(out, existing, options.init_from, run.init_state))
        if not setup.is_fresh:
            if setup.mirror is not None:
                fetch = setup.mirror.fetch_checkpoint
                group.on_rank0(lambda: reachable(options.checkpoint.mirror or "", fetch))
            setup.saved = group.on_rank0(lambda: find_saved_state(out, existing, warn=setup.log.add_warning))


def _open_inputs(setup: _Setup, options: _Options, stores: Any) -> RecipeRequest:
    """Open first weights, embeddings and stores; returns what the recipe depends on."""
    group, out, existing = setup.group, setup.out, setup.existing
    embeddings = options.run.embeddings
    alone = options.model is None and embeddings is None
    init_from = None if options.run.init_state == "full" else options.init_from
    pretrained = group.on_rank0(lambda: resolve_pretrained(out, existing, init_from, alone=alone))
    if embeddings is not None:
        setup.vectors = group.on_all_ranks(lambda: read_vectors(embeddings))
    snapshots = () if existing is None or setup.is_fresh else existing.get("stores", ())
    data = group.on_all_ranks(lambda: open_data(stores, options=options.data, snapshots=snapshots))
    setup.data = setup.stack.enter_context(data)
    identity = None if setup.vectors is None else setup.vectors.source
    model: str | ModelConfig = options.model or "tiny"
    name = model if isinstance(model, str) else "custom"
    if pretrained is not None:
        if setup.branch is None:
            group.on_rank0(lambda: check_tokenizer(pretrained, out, data.source.tokenizer))
        identity, model, name = pretrained.identity, pretrained.config, "custom"
    elif options.model is None and existing is not None and not setup.is_fresh:
        before = existing["recipe"]
        model, name = config_from_json(before["model"], out / RUN), str(before.get("model_name"))
    setup.pretrained = pretrained
    return RecipeRequest(
        model=model,
        model_name=name,
        data=options.data,
        optimizer=options.optimizer,
        seed=options.run.seed,
        banded=options.run.banded,
        init_from=identity,
    )


def _resolve(setup: _Setup, options: _Options, request: RecipeRequest) -> Recipe:
    """The recipe, checked against an earlier start."""
    return setup.group.on_all_ranks(
        lambda: resolve_recipe(
            request,
            setup.data,
            setup.existing,
            setup.saved,
            out=setup.out,
            limits=options.limits,
            dtype=options.run.dtype,
            device=setup.device,
        )
    )


def _resolved(parallel: ParallelOptions, num_processes: int) -> ParallelOptions:
    """With dp known; layout auto chooses it later."""
    return parallel if parallel.layout == "auto" else parallel.resolve(num_processes)


def _with_layout(
    setup: _Setup, options: _Options, request: RecipeRequest, recipe: Recipe
) -> tuple[_Options, RecipeRequest, Recipe]:
    """With the layout that auto chooses; then the mesh of the layout."""
    if options.parallel.layout == "auto":
        choice = setup.choice
        if choice is None:
            is_kept = not setup.is_fresh or options.optimizer.gradient_accumulation_steps is not None
            choice = choose_layout(
                recipe, options.parallel, group=setup.group, device=setup.device, keep_accumulation=is_kept
            )
        setup.choice = choice
        optimizer = dataclasses.replace(
            options.optimizer, gradient_accumulation_steps=choice.gradient_accumulation_steps
        )
        options = dataclasses.replace(options, parallel=choice.parallel, optimizer=optimizer)
        request = dataclasses.replace(request, optimizer=optimizer)
        recipe = dataclasses.replace(recipe, gradient_accumulation_steps=choice.gradient_accumulation_steps)
    setup.group.on_all_ranks(lambda: check_layout(options.parallel, recipe))
    setup.mesh = device_mesh(options.parallel, setup.device)
    setup.dp_rank = 0 if setup.mesh is None else setup.mesh.get_local_rank("dp")
    return options, request, recipe


def _open_rows(setup: _Setup, options: _Options, recipe: Recipe) -> None:
    """Open the loader and the held-out rows: before anything is written, since a store may have no such row."""
    group, dp = setup.group, options.parallel.dp
    loader = group.on_all_ranks(
        lambda: setup.data.loader(
            seq_len=recipe.seq_len,
            batch_size=recipe.schedule.micro_batch_size,
            seed=recipe.seed,
            rank=setup.dp_rank,
            world_size=dp,
        )
    )
    setup.loader = setup.stack.enter_context(loader)
    if options.evaluation.eval_stores is not None:
        setup.held_out = group.on_all_ranks(
            lambda: open_held_out(
                options.evaluation.eval_stores,
                setup.data,
                seq_len=recipe.seq_len,
                rows=options.evaluation.eval_rows,
                rank=setup.dp_rank,
                world_size=dp,
            )
        )
    vectors = setup.vectors
    if vectors is not None:
        setup.table = group.on_all_ranks(lambda: first_table(recipe, vectors, setup.data))


def _begin(setup: _Setup, options: _Options, request: RecipeRequest, recipe: Recipe) -> list[RunSegment]:
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
        warn_of_surprises(setup.log, recipe, num_rows=setup.loader.num_rows, warmup_given=warmup_given)
    machine = describe_machine(options.parallel, setup.device, num_processes=group.size, dtype=recipe.dtype)
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
    setup.existing = group.on_rank0(lambda: read_run(out))
    mirror = setup.mirror
    if mirror is not None:
        keep = options.checkpoint.keep_checkpoints
        group.on_rank0(lambda: mirror.send_beginning(keep=keep))
    if is_fresh or setup.branch is not None:
        run = setup.existing or {}
        setup.saved = group.on_rank0(lambda: find_saved_state(out, run, warn=setup.log.add_warning))
    return segments


def _build(setup: _Setup, options: _Options, recipe: Recipe, *, initialize: bool) -> TrainableModel:
    return TrainableModel(
        recipe,
        setup.device,
        parallel=options.parallel,
        mesh=setup.mesh,
        token_table_VW=None if setup.table is None else setup.table.table_VW,
        initialize=initialize,
    )


def _run(
    setup: _Setup, options: _Options, segments: list[RunSegment], progress: Progress | None
) -> RunSummary:
    """Build the model, restore the newest checkpoint, and take the steps that are left."""
    group, out, saved, run = setup.group, setup.out, setup.saved, setup.existing or {}
    recipe = recipe_at(segments, setup.step + 1)
    setup.loader.batch_size = recipe.schedule.micro_batch_size
    model = _build(setup, options, recipe, initialize=saved is None)
    state = restore(model, setup.loader, saved, group=group)
    files = LoopFiles(
        out=out,
        checkpoint=options.checkpoint,
        tensorboard=options.run.tensorboard,
        mirror=setup.mirror,
        log=setup.log,
        first_checkpoint=run.get("first_checkpoint"),
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
        eval_every=options.evaluation.eval_every or max(1, segments[-1].recipe.steps // 10),
        progress=progress,
    )
    hit_rate = None if setup.table is None else setup.table.hit_rate
    return dataclasses.replace(summary, hit_rate=hit_rate, notes=tuple(setup.notes))
