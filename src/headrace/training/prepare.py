"""The arguments of `train` -> what a start opens: directory, weights, stores, recipe, layout, rows."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from headrace.errors import ConfigError
from headrace.generation import Prompt
from headrace.load import Loader
from headrace.model import (
    GPT3_CONTEXT,
    ModelConfig,
    TokenTable,
    WordVectors,
    config_from_json,
    list_checkpoints,
    read_vectors,
)
from headrace.storage import open_blob
from headrace.training.branch import Branch, check_branch, open_branch
from headrace.training.checkpoints.state import SavedState, check_fresh, find_saved_state
from headrace.training.data import TrainingData, TrainingStores, open_data
from headrace.training.distributed.layout import check_layout, device_mesh
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.evaluation import HeldOutRows, open_held_out
from headrace.training.evaluation_options import EvaluationOptions
from headrace.training.layout_choice import LayoutChoice, choose_layout, earlier_choice
from headrace.training.lora import check_lora
from headrace.training.options import (
    CheckpointOptions,
    DataOptions,
    OptimizerOptions,
    ParallelOptions,
    RunOptions,
)
from headrace.training.pretrained import Pretrained, check_tokenizer, is_untrained, resolve_pretrained
from headrace.training.recipe import Recipe, RecipeRequest
from headrace.training.remote_run import RemoteRun
from headrace.training.run_directory.mirror import Mirror, reachable
from headrace.training.run_directory.restart import delete_run, is_first_attempt
from headrace.training.run_directory.run_json import RUN, read_run
from headrace.training.run_directory.run_lock import RunLock
from headrace.training.run_directory.run_log import RunLog
from headrace.training.run_directory.tracking import check_trackers
from headrace.training.samples import open_prompts
from headrace.training.shape import depth_rule, named_shape, shape_of
from headrace.training.shape_options import ShapeOptions
from headrace.training.start import (
    Limits,
    first_table,
    resolve_recipe,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainArguments:
    """The arguments of `train`, as one value."""

    model: str | ModelConfig | ShapeOptions | None
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
class RunSetup:
    """What the steps below open, one after the other."""

    out: Path
    device: torch.device
    group: ProcessGroup
    log: RunLog
    stack: ExitStack
    mirror: Mirror | None = None
    remote: RemoteRun | None = None
    """The run on an object store whose working directory `out` is."""
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
    prompts: tuple[Prompt, ...] | None = None
    """That samples continue."""

    @property
    def is_fresh(self) -> bool:
        """Whether no step was trained and no recipe written yet."""
        return is_untrained(self.existing)

    @property
    def step(self) -> int:
        """Steps done by earlier starts."""
        return 0 if self.saved is None else self.saved.step

    def steps_saved(self) -> list[int]:
        """Steps of the checkpoints that are there, whole or not; rank 0."""
        if self.remote is not None:
            return self.remote.steps_saved()
        return [step for step, _ in list_checkpoints(self.out / "checkpoints")]

    def find_saved_state(self) -> None:
        """Look for the newest whole checkpoint; every rank calls."""
        run = self.existing or {}
        if self.remote is not None:
            self.saved = self.remote.find_saved_state(run)
        else:
            find = functools.partial(find_saved_state, self.out, run, warn=self.log.add_warning)
            self.saved = self.group.on_rank0(find)


def open_directory(setup: RunSetup, options: TrainArguments) -> None:
    """Lock the run directory, and read what an earlier start left there or on the mirror."""
    group, out, run, remote = setup.group, setup.out, options.run, setup.remote
    group.on_all_ranks(lambda: check_trackers(run.track))
    _lock(setup, options)
    if run.restart and options.checkpoint.mirror is not None:
        raise ConfigError(
            "train: restart does not delete the run's copy on the mirror, which would be continued. Delete both, or "
            "give another --out and --mirror."
        )
    if run.restart and is_first_attempt():
        delete = functools.partial(delete_run, out) if remote is None else remote.delete
        group.on_rank0(lambda: delete(options.init_from))
    if remote is not None:
        group.on_rank0(remote.fetch_files)
    if options.checkpoint.mirror is not None:
        url = options.checkpoint.mirror
        mirror = Mirror(
            group.on_all_ranks(lambda: open_blob(url, name="train: mirror")), out, warn=setup.log.add_warning
        )
        group.on_rank0(lambda: reachable(url, mirror.fetch_run))
        setup.mirror = mirror
    setup.existing = existing = group.on_rank0(lambda: read_run(out))
    if existing is None and run.init_state == "full":
        if options.init_from is None:
            raise ConfigError("train: init_state full goes on from a run. Give its directory as init_from.")
        source = options.init_from
        setup.branch = group.on_rank0(lambda: open_branch(source, warn=setup.log.add_warning))
        setup.existing, setup.saved = setup.branch.run, setup.branch.saved
    if existing is None:
        own = 0 if options.init_from is not None else None
        own = setup.branch.saved.step if setup.branch is not None else own
        group.on_rank0(lambda: check_fresh(out, setup.steps_saved(), own=own))
    else:
        group.on_rank0(lambda: check_branch(out, existing, options.init_from, run.init_state))
        if not setup.is_fresh:
            if setup.mirror is not None:
                fetch = setup.mirror.fetch_checkpoint
                group.on_rank0(lambda: reachable(options.checkpoint.mirror or "", fetch))
            setup.find_saved_state()
            if options.parallel.layout == "auto":
                setup.choice = earlier_choice(existing, options.parallel, processes=group.size)


def _lock(setup: RunSetup, options: TrainArguments) -> None:
    group, out, remote = setup.group, setup.out, setup.remote
    if remote is None:

        def lock() -> None:
            setup.stack.enter_context(RunLock(out))

        group.on_rank0(lock)
        return
    if options.checkpoint.mirror is not None:
        raise ConfigError(
            f"train: out is {remote.url}, on an object store, and mirror copies a local run to one. Leave mirror out."
        )
    setup.stack.enter_context(remote.named_in_errors())

    def open_remote() -> None:
        setup.stack.enter_context(remote.opened())

    group.on_rank0(open_remote)
    if not group.is_rank0:
        open_remote()


def open_inputs(
    setup: RunSetup, options: TrainArguments, stores: TrainingStores
) -> tuple[TrainArguments, RecipeRequest]:
    """Open first weights, embeddings and stores; returns the arguments, completed by depth, and the recipe's part."""
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
    adapter: Path | None = None
    options, model, name = _with_shape(setup, options, vocab_size=data.source.vocab_size)
    if pretrained is not None:
        adapter = pretrained.adapter
        if options.run.lora.is_given and pretrained.source is None and setup.is_fresh:
            raise ConfigError(
                f"train: {out} holds an import, whose weights all learn. To tune them by LoRA give another directory "
                f"with --out, and --init-from {out}."
            )
        if setup.branch is None:
            group.on_rank0(lambda: check_tokenizer(pretrained, out, data.source.tokenizer))
        identity, model, name = pretrained.identity, pretrained.config, "custom"
    elif options.model is None and existing is not None and not setup.is_fresh:
        before = existing["recipe"]
        model, name = config_from_json(before["model"], out / RUN), str(before.get("model_name"))
    elif options.run.lora.is_given and setup.is_fresh and setup.branch is None:
        raise ConfigError("train: LoRA tunes weights that exist. Name them: init_from (--init-from).")
    setup.pretrained = pretrained
    return options, RecipeRequest(
        model=model,
        model_name=name,
        data=options.data,
        optimizer=options.optimizer,
        seed=options.run.seed,
        banded=options.run.banded,
        init_from=identity,
        lora=options.run.lora,
        adapter=adapter if setup.is_fresh else None,
    )


def _with_shape(
    setup: RunSetup, options: TrainArguments, *, vocab_size: int
) -> tuple[TrainArguments, str | ModelConfig, str]:
    """The requested model and its name; and the arguments, with batch, rate and tokens where depth decides them."""
    requested, data = options.model or "tiny", options.data
    if isinstance(requested, str):
        return options, named_shape(requested, vocab_size=vocab_size) or requested, requested
    if not isinstance(requested, ShapeOptions):
        return options, requested, "custom"
    model = setup.group.on_all_ranks(lambda: shape_of(requested, vocab_size=vocab_size, seq_len=data.seq_len))
    if requested.depth is None:
        return options, model, "custom"
    rule, limits = depth_rule(model), options.limits
    seq_len = data.seq_len or min(model.max_position_embeddings, GPT3_CONTEXT)
    if data.batch_size is None:
        data = dataclasses.replace(data, batch_size=max(1, rule.batch_tokens // seq_len))
    optimizer = options.optimizer
    if optimizer.lr is None:
        optimizer = dataclasses.replace(optimizer, lr=rule.lr)
    if limits.steps is None and limits.tokens is None and limits.max_seconds is None:
        limits = dataclasses.replace(limits, tokens=rule.tokens)
    options = dataclasses.replace(options, data=data, optimizer=optimizer, limits=limits)
    return options, model, f"depth-{requested.depth}"


def resolve_request(setup: RunSetup, options: TrainArguments, request: RecipeRequest) -> Recipe:
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


def resolve_parallel(parallel: ParallelOptions, num_processes: int) -> ParallelOptions:
    """With dp known; layout auto chooses it later."""
    return parallel if parallel.layout == "auto" else parallel.resolve(num_processes)


def with_layout(
    setup: RunSetup, options: TrainArguments, request: RecipeRequest, recipe: Recipe
) -> tuple[TrainArguments, RecipeRequest, Recipe]:
    """With the layout that auto chooses; then the mesh of the layout."""
    setup.group.on_all_ranks(lambda: check_lora(recipe.lora, options.parallel))
    if recipe.lora is not None and setup.remote is not None:
        raise ConfigError(
            f"train: out is {setup.remote.url}, and LoRA keeps the frozen weights in a local run directory. Give a "
            f"local --out; --mirror {setup.remote.url} copies it there."
        )
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


def open_rows(setup: RunSetup, options: TrainArguments, recipe: Recipe) -> None:
    """Open the loader, held-out rows and prompts: before anything is written, since a store may have no such row."""
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
    source = options.evaluation.sample_prompts
    if source is not None:
        setup.prompts = group.on_rank0(lambda: open_prompts(source, recipe.model))
    vectors = setup.vectors
    if vectors is not None:
        setup.table = group.on_all_ranks(lambda: first_table(recipe, vectors, setup.data))
