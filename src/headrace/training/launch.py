"""Stores and options -> a run directory: check the options, build or restore the model, run the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import DeviceMesh

from headrace.errors import CheckpointError
from headrace.load import Loader
from headrace.model import GPTConfig, TokenTable, WordVectors, read_vectors, step_dir
from headrace.paths import local_path
from headrace.storage import Unavailable, open_blob
from headrace.training.data import TrainingData, open_data
from headrace.training.device import resolve_device
from headrace.training.evaluation import HeldOutRows, open_held_out
from headrace.training.layout import check_layout, device_mesh
from headrace.training.layout_choice import LayoutChoice, choose_layout, earlier_choice
from headrace.training.loop import LoopFiles, Progress, run_loop
from headrace.training.memory import freed_memory_kept
from headrace.training.mirror import Mirror
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
from headrace.training.run_json import read_run, write_run
from headrace.training.run_lock import RunLock
from headrace.training.run_log import RunLog
from headrace.training.start import (
    Limits,
    begin_run,
    describe_machine,
    first_table,
    measure_steps,
    resolve_recipe,
)
from headrace.training.state import SavedState, find_saved_state, restore
from headrace.training.summary import RunSummary
from headrace.training.trainable import TrainableModel

T = TypeVar("T")


def train(
    stores: Any,
    *,
    out: str | PathLike[str],
    model: str | GPTConfig | None = None,
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
        init_from: a Hugging Face directory in GPT-2's format, or a run, whose weights the run begins with; its
            tokenizer must be the stores'. An out that `import_model` made begins with the weights in it.
        steps: optimizer steps in all; or give run.max_seconds.
        data: rows: their length, number and packing.
        optimizer: learning rate, AdamW, clipping, gradient accumulation, batch ramp-up.
        parallel: how processes share the work; this and the next two may change between starts of one run.
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
            limits=Limits(steps=steps, max_seconds=run.max_seconds),
            data=data,
            optimizer=optimizer,
            parallel=group.on_all_ranks(lambda: _resolved(parallel, group.size)),
            checkpoint=checkpoint,
            evaluation=evaluation,
            run=run,
        )
        _open_directory(setup, options)
        options = _with_earlier_layout(setup, options)
        request = _open_inputs(setup, options, stores)
        recipe = _resolve(setup, options, request)
        options, request, recipe = _with_layout(setup, options, request, recipe)
        _open_rows(setup, options, recipe)
        recipe = _begin(setup, options, request, recipe)
        return _run(setup, options, recipe, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The arguments of `train`, as one value."""

    model: str | GPTConfig | None
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


def _open_directory(setup: _Setup, options: _Options) -> None:
    """Lock the run directory, and read what an earlier start left there or on the mirror."""
    group, out = setup.group, setup.out

    def lock() -> None:
        setup.stack.enter_context(RunLock(out))

    group.on_rank0(lock)
    if options.checkpoint.mirror is not None:
        url = options.checkpoint.mirror
        mirror = Mirror(group.on_all_ranks(lambda: open_blob(url)), out, warn=setup.log.add_warning)
        group.on_rank0(lambda: _reachable(url, mirror.fetch_run))
        setup.mirror = mirror
    setup.existing = group.on_rank0(lambda: read_run(out))


def _open_inputs(setup: _Setup, options: _Options, stores: Any) -> RecipeRequest:
    """Open first weights, embeddings and stores; returns what the recipe depends on."""
    group, out, existing = setup.group, setup.out, setup.existing
    embeddings = options.run.embeddings
    alone = options.model is None and embeddings is None
    pretrained = group.on_rank0(lambda: resolve_pretrained(out, existing, options.init_from, alone=alone))
    if embeddings is not None:
        setup.vectors = group.on_all_ranks(lambda: read_vectors(embeddings))
    snapshots = () if existing is None or setup.is_fresh else existing.get("stores", ())
    data = group.on_all_ranks(lambda: open_data(stores, options=options.data, snapshots=snapshots))
    setup.data = setup.stack.enter_context(data)
    identity = None if setup.vectors is None else setup.vectors.source
    model = options.model or "tiny"
    if pretrained is not None:
        group.on_rank0(lambda: check_tokenizer(pretrained, out, data.source.tokenizer))
        identity, model = pretrained.identity, pretrained.config
    setup.pretrained = pretrained
    return RecipeRequest(
        model=model,
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
            out=setup.out,
            limits=options.limits,
            dtype=options.run.dtype,
            device=setup.device,
        )
    )


def _resolved(parallel: ParallelOptions, num_processes: int) -> ParallelOptions:
    """With dp known; layout auto chooses it later."""
    return parallel if parallel.layout == "auto" else parallel.resolve(num_processes)


def _with_earlier_layout(setup: _Setup, options: _Options) -> _Options:
    """With the layout that an earlier start chose for as many processes, where layout is auto."""
    if options.parallel.layout != "auto" or setup.is_fresh:
        return options
    setup.choice = earlier_choice(setup.existing, options.parallel, processes=setup.group.size)
    run, optimizer = setup.existing or {}, options.optimizer
    if run.get("plan") is not None and optimizer.gradient_accumulation_steps == 1:
        # The recipe has what was chosen at the first start, whatever the layout is now.
        steps = run["recipe"].get("gradient_accumulation_steps", 1)
        optimizer = dataclasses.replace(optimizer, gradient_accumulation_steps=steps)
    return dataclasses.replace(options, optimizer=optimizer)


def _with_layout(
    setup: _Setup, options: _Options, request: RecipeRequest, recipe: Recipe
) -> tuple[_Options, RecipeRequest, Recipe]:
    """With the layout that auto chooses; then the mesh of the layout."""
    if options.parallel.layout == "auto":
        choice = setup.choice
        if choice is None:
            is_kept = not setup.is_fresh or options.optimizer.gradient_accumulation_steps > 1
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


def _begin(setup: _Setup, options: _Options, request: RecipeRequest, recipe: Recipe) -> Recipe:
    """Of a fresh run: measure its steps and write run.json. Of any run: fetch newer files from the mirror."""
    group, out, limits = setup.group, setup.out, options.limits
    torch.manual_seed(recipe.seed)
    is_fresh = setup.is_fresh
    if is_fresh and limits.max_seconds is not None:
        measured = measure_steps(_build(setup, options, recipe, initialize=True), limits.max_seconds)
        measured = group.on_rank0(lambda: measured)
        recipe = request.resolve(
            vocab_size=setup.data.source.vocab_size,
            data_identity=setup.data.identity(),
            steps=measured if limits.steps is None else min(limits.steps, measured),
            dtype=recipe.dtype,
        )
    if group.is_rank0:
        _warn_of_surprises(setup, options, recipe)
    machine = describe_machine(options.parallel, setup.device, num_processes=group.size, dtype=recipe.dtype)
    machine["plan"] = None if setup.choice is None else setup.choice.record

    def write() -> None:
        if is_fresh:
            begin_run(
                out, recipe, setup.data, max_seconds=limits.max_seconds, table=setup.table,
                pretrained=setup.pretrained, machine=machine,
            )  # fmt: skip
        else:
            write_run(out, {**(setup.existing or {}), **machine})
        setup.log.open(out / "train.log")
        if setup.choice is not None:
            setup.log.add_event(setup.choice.note)

    group.on_rank0(write)
    setup.existing = group.on_rank0(lambda: read_run(out))
    if setup.mirror is not None:
        group.on_rank0(lambda: _exchange(setup, options, is_fresh=is_fresh))
    return recipe


def _exchange(setup: _Setup, options: _Options, *, is_fresh: bool) -> None:
    """Send what a run begins with to the mirror, and fetch a newer checkpoint from there."""
    mirror = setup.mirror
    assert mirror is not None
    mirror.send_run()
    if is_fresh and setup.pretrained is not None:
        first = step_dir(setup.out / "checkpoints", 0)
        mirror.send_checkpoint(first, keep=options.checkpoint.keep_checkpoints)
    _reachable(options.checkpoint.mirror or "", mirror.fetch_checkpoint)


def _warn_of_surprises(setup: _Setup, options: _Options, recipe: Recipe) -> None:
    """Options that are allowed and rarely meant."""
    if setup.loader.num_rows < recipe.batch_size:
        setup.log.add_warning(
            f"train: the stores hold {setup.loader.num_rows} rows of seq_len {recipe.seq_len}, fewer than "
            f"batch_size {recipe.batch_size}: rows repeat within one step."
        )
    if options.optimizer.warmup_steps is not None and recipe.warmup_steps > recipe.steps:
        setup.log.add_warning(
            f"train: warmup_steps {recipe.warmup_steps} are more than the run's {recipe.steps} steps: the peak "
            f"learning rate {recipe.lr} is never reached."
        )


def _build(setup: _Setup, options: _Options, recipe: Recipe, *, initialize: bool) -> TrainableModel:
    return TrainableModel(
        recipe,
        setup.device,
        parallel=options.parallel,
        mesh=setup.mesh,
        token_table_VW=None if setup.table is None else setup.table.table_VW,
        initialize=initialize,
    )


def _run(setup: _Setup, options: _Options, recipe: Recipe, progress: Progress | None) -> RunSummary:
    """Build the model, restore the newest checkpoint, and take the steps that are left."""
    group, out = setup.group, setup.out
    run = setup.existing or {}
    saved: SavedState | None = group.on_rank0(lambda: find_saved_state(out, run, warn=setup.log.add_warning))
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
        files=files,
        group=group,
        held_out=setup.held_out,
        eval_every=options.evaluation.eval_every or max(1, recipe.steps // 10),
        progress=progress,
    )
    return summary if setup.table is None else dataclasses.replace(summary, hit_rate=setup.table.hit_rate)


def _reachable(url: str, work: Callable[[], T]) -> T:
    """Errors of the mirror at a start become one that says what to do."""
    try:
        return work()
    except (Unavailable, OSError) as error:
        raise CheckpointError(
            f"{url}: the mirror cannot be read: {error}. Run the same command again when it answers, or leave "
            f"out --mirror to go on with what is here."
        ) from error
