"""A model, a loader and a run's state -> the steps that are left: metrics, evaluations, checkpoints."""

from __future__ import annotations

import datetime as dt
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

from headrace.stats import StageCount
from headrace.training.checkpoints.state import SavedState, TrainLoader, TrainState, find_saved_state, restore
from headrace.training.checkpoints.writer import CheckpointWriter
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.evaluation import HeldOutRows, evaluate
from headrace.training.evaluation_options import EvaluationOptions
from headrace.training.loop_files import AfterCommit, BeforeCommit, LoopFiles
from headrace.training.recipe import Recipe
from headrace.training.run_directory.metrics import METRICS, SAMPLES, MetricsLog
from headrace.training.run_directory.run_log import RunLog, StepLines, step_note
from headrace.training.run_directory.segments import RunSegment, recipe_at
from headrace.training.run_directory.tracking import TrackerLog, open_trackers
from headrace.training.samples import SHOWN, Sampler, sample_note
from headrace.training.step.divergence import MAX_IN_A_ROW, divergence_error, record_divergence
from headrace.training.step.mfu import device_peak
from headrace.training.step.train_step import StepResult, train_step
from headrace.training.step.trainable import TrainableModel
from headrace.training.stop import StopSignal
from headrace.training.summary import RunSummary

Progress = Callable[[int, int | None, str], None]


class LoaderTimes:
    """Seconds of the loader's threads, beside the steps: since the last call, by stage."""

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


def run_loop(
    model: TrainableModel,
    loader: TrainLoader,
    state: TrainState,
    *,
    segments: Sequence[RunSegment],
    files: LoopFiles,
    group: ProcessGroup,
    held_out: HeldOutRows | None,
    evaluation: EvaluationOptions,
    eval_every: int,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> RunSummary:
    """Take the steps from the state to the end, or until SIGTERM or Ctrl-C; then save.

    Raises:
        CheckpointError, SpaceError: a checkpoint or a line of metrics could not be written.
        ConfigError: training has diverged, and the recipe says to stop, or nothing else helped.
    """
    resumed, tokens_before, start = state.step, state.tokens, clock()
    recipe = segments[-1].recipe
    with ExitStack() as stack:
        loop = _Loop(
            model, loader, state, segments,
            files=files, evaluation=evaluation, group=group, clock=clock, stack=stack,
        )  # fmt: skip
        _log_start(files.log, loop, held_out)
        lines = StepLines(files.log, first=resumed + 1, total=recipe.steps, clock=clock)
        while state.step < recipe.steps and loop.stopped_by is None and not loop.patience_is_over:
            state.step += 1
            evaluates = held_out is not None and (state.step % eval_every == 0 or state.step == recipe.steps)
            line = loop.step(held_out if evaluates else None)
            if group.is_rank0 and line is not None:
                lines.add(line)
                if progress is not None:
                    progress(state.step, recipe.steps, step_note(line))
    wall_s = clock() - start
    if group.is_rank0 and state.step > resumed:
        reason = "all steps are done" if loop.stopped_by is None else f"stopped by {loop.stopped_by}"
        if loop.patience_is_over:
            reason = f"no lower held-out loss in {state.evaluations_since_best} evaluations"
        files.log.add_event(f"step {state.step:,} of {recipe.steps:,}: {reason}; checkpoint committed")
    return RunSummary(
        out=files.out,
        steps=state.step,
        total_steps=recipe.steps,
        tokens=state.tokens,
        loss=loop.loss,
        eval_loss=state.eval_loss,
        eval_bits_per_byte=None
        if held_out is None or state.eval_loss is None
        else held_out.bits_per_byte(state.eval_loss),
        eval_step=state.eval_step,
        parameters=recipe.model.num_parameters,
        trainable_parameters=recipe.num_trainable_parameters,
        tokens_per_s=(state.tokens - tokens_before) / wall_s,
        wall_s=wall_s,
        resumed_from=resumed,
        mfu=loop.mfu,
        stopped_by=loop.stopped_by,
        best_step=None if state.best is None else state.best["step"],
        stopped_early=loop.patience_is_over and state.step < recipe.steps,
    )


def _log_start(log: RunLog, loop: _Loop, held_out: HeldOutRows | None) -> None:
    recipe, state, parallel = loop.model.recipe, loop.state, loop.model.parallel
    if not loop.group.is_rank0 or state.step == loop.steps:
        return
    learning = f" ({recipe.num_trainable_parameters:,} of them learn)" if recipe.lora is not None else ""
    log.add_event(
        f"{'continues at' if state.step else 'begins at'} step {state.step:,} of {loop.steps:,}: "
        f"{recipe.model.num_parameters:,} parameters{learning}, "
        f"{recipe.batch_size} rows of {recipe.seq_len} tokens a step, "
        f"{recipe.dtype} on {loop.model.device}, {loop.group.size} processes (dp {parallel.dp}, tp {parallel.tp}, "
        f"pp {parallel.pp}, shard {parallel.shard})"
        + ("" if held_out is None else f", {len(held_out.ids_NT)} held-out rows")
    )


class _Loop:
    """The open files of a run, and one step at a time."""

    def __init__(
        self,
        model: TrainableModel,
        loader: TrainLoader,
        state: TrainState,
        segments: Sequence[RunSegment],
        *,
        files: LoopFiles,
        evaluation: EvaluationOptions,
        group: ProcessGroup,
        clock: Callable[[], float],
        stack: ExitStack,
    ) -> None:
        self.model, self.loader, self.state, self.group = model, loader, state, group
        self._segments, self.steps = segments, segments[-1].recipe.steps
        self._positions = dict(files.positions)
        self._returns: dict[int, int] = {}
        self.stopped_by: str | None = None
        self.loss: float | None = None
        self.mfu: float | None = None
        self._clock = clock
        self._begun = clock() - state.elapsed_s  # of all starts, as if without the breaks
        self._peak = device_peak(model.device, model.recipe.dtype)
        self._flops_per_token = model.recipe.flops_per_token
        self._tensors = model.tensors()
        self._files, self._options, self._evaluation = files, files.checkpoint, evaluation
        self._logs: list[MetricsLog | TrackerLog] = []
        lines: list[MetricsLog] = []
        self._samples: MetricsLog | None = None
        if group.is_rank0:
            metrics = MetricsLog(files.out / METRICS, step=state.step, warn=files.log.add_warning)
            self._logs.append(stack.enter_context(metrics))
            lines.append(metrics)
            if files.sampler is not None or (files.out / SAMPLES).exists():
                self._samples = stack.enter_context(MetricsLog(files.out / SAMPLES, step=state.step))
                lines.append(self._samples)
            trackers = open_trackers(
                files.track,
                out=files.out,
                step=state.step,
                run=files.run,
                is_remote=files.remote is not None,
                log=files.log,
            )
            self._logs += [stack.enter_context(tracker) for tracker in trackers]
        self._stop = stack.enter_context(StopSignal())
        keep, remote = files.checkpoint.keep_checkpoints, files.remote
        self._writer = stack.enter_context(
            CheckpointWriter(
                files.out / "checkpoints" if remote is None else remote.checkpoints(keep=keep),
                keep=keep,
                timeout_s=files.checkpoint.checkpoint_timeout,
                resumed_step=files.resumed,
                best_step=None if state.best is None else state.best["step"],
                group=group,
                before_commit=BeforeCommit(lines, remote) if lines else None,
                after_commit=AfterCommit(files),
                log=files.log.add_event,
                warn=files.log.add_warning,
            )
        )
        if state.step < self.steps:
            self._writer.allocate(self._tensors)
        self._step_around()
        self._batches: Iterator[Any] = iter(loader)
        self._loader_times = LoaderTimes(loader)
        self._saved_at = clock()

    @property
    def patience_is_over(self) -> bool:
        """Whether the held-out loss was not lower for as many evaluations as allowed."""
        patience = self._evaluation.patience
        return patience is not None and self.state.evaluations_since_best >= patience

    def step(self, held_out: HeldOutRows | None) -> Mapping[str, Any] | None:
        """Train one step, evaluate where there are held-out rows, save where it is due; returns its metrics.

        None: the run went back to its last checkpoint.
        """
        clock, state, files = self._clock, self.state, self._files
        recipe, position = self._recipe_of_step(), self.loader.position
        start, is_last = clock(), state.step == self.steps
        result = train_step(
            self.model,
            self._batches,
            step=state.step,
            recent=state.recent,
            group=self.group,
            save_due=clock() - self._saved_at >= self._options.checkpoint_seconds or self._writer.is_due,
            stop_signal=self._stop.number,
            clock=clock,
        )
        trained = clock()
        more: dict[str, Any] = {}
        if result.diverged is None:
            self.loss = result.loss
            state.add_good_step(
                result.loss, result.grad_norm, recipe.spike_window if recipe.spike_sigma else 0
            )
        elif recipe.on_divergence == "rollback":
            self._roll_back(result.diverged, end=self.loader.position)
            return None
        else:
            self._leave_out(result.diverged, [position, self.loader.position])
            more["skipped"] = result.diverged
        state.tokens += result.tokens
        is_best = False
        if held_out is not None:
            more["eval_loss"] = evaluate(self.model, held_out, group=self.group)
            more["eval_bits_per_byte"] = held_out.bits_per_byte(more["eval_loss"])
            is_best = state.add_evaluation(more["eval_loss"], held_out.fingerprint)
            more["eval_s"] = clock() - trained
        sampler, ends = files.sampler, is_last or (held_out is not None and self.patience_is_over)
        if sampler is not None and sampler.is_due(state.step, ends=ends):
            more["sample_s"] = self._sample(sampler)
        if result.stop_signal and not is_last:
            self.stopped_by = signal.Signals(result.stop_signal).name
        stall_s, state.elapsed_s = 0.0, clock() - self._begun
        # These are never left out, and wait for a save that is under way.
        saves = ends or self.stopped_by is not None or (is_best and self._evaluation.keep_best)
        saves = saves or (self._is_due(result) and not self._writer.skips(state.step))
        if saves:
            stall_s = self._writer.copy(self._tensors)
        line = self._line(result, start=start, trained=trained, stall_s=stall_s) | more
        for log in self._logs:  # before the checkpoint that relies on the line
            log.append(line)
        if saves:
            self._writer.write(state.step, state.to_json(recipe, self.loader))
            self._saved_at = clock()
        self._step_around()
        return line

    def _sample(self, sampler: Sampler) -> float:
        """Write the step's samples, before the checkpoint of the step is committed; returns the seconds it took."""
        start = self._clock()
        lines = sampler(self.model, self.state.step, group=self.group)
        if self._samples is not None:
            for line in lines:
                self._samples.append(line)
            for line in lines[:SHOWN]:
                self._files.log.add_event(sample_note(line))
        return self._clock() - start

    def _leave_out(self, reason: str, rows: list[int]) -> None:
        """Record a step whose update is left out; every rank decides the same."""
        state, recipe = self.state, self.model.recipe
        if recipe.on_divergence == "stop":
            raise divergence_error(state.step, reason, recipe)
        state.left_out += 1
        if state.left_out > MAX_IN_A_ROW:
            tried = f" The {MAX_IN_A_ROW} updates before were left out too."
            raise divergence_error(state.step, reason, recipe, tried=tried)
        self._record({"step": state.step, "action": "skip", "reason": reason, "rows": rows})

    def _roll_back(self, reason: str, *, end: int) -> None:
        """Restore the last checkpoint, and go on behind the rows that were read since."""
        state, files, group, step = self.state, self._files, self.group, self.state.step
        self._writer.wait()
        saved: SavedState | None = (
            group.on_rank0(lambda: find_saved_state(files.out, {}, warn=files.log.add_warning))
            if files.remote is None
            else files.remote.find_saved_state({})
        )
        recipe = self.model.recipe
        if saved is None or saved.has_weights_only:
            tried = " There is no checkpoint to go back to yet: give a lower --checkpoint-every."
            raise divergence_error(step, reason, recipe, tried=tried)
        self._returns[saved.step] = self._returns.get(saved.step, 0) + 1
        if self._returns[saved.step] > MAX_IN_A_ROW:
            tried = f" The run went back to step {saved.step} {MAX_IN_A_ROW} times."
            raise divergence_error(step, reason, recipe, tried=tried)
        entry = {"step": step, "action": "rollback", "reason": reason, "after_step": saved.step}
        # Recorded before anything else: a start after a kill steps around the same rows.
        self._record({**entry, "rows": [int(saved.content["loader"]["position"]), end]})
        self._positions[saved.step] = end
        before = restore(self.model, self.loader, saved, group=group)
        for name in (entry.name for entry in fields(TrainState)):
            setattr(state, name, getattr(before, name))
        for log in (*self._logs, *([] if self._samples is None else [self._samples])):
            log.rewind(state.step)
        self._step_around()
        self._batches = iter(self.loader)

    def _record(self, entry: Mapping[str, Any]) -> None:
        files = self._files
        if self.group.is_rank0:
            files.log.add_warning(
                f"train: step {entry['step']} diverged, {entry['action']}: {entry['reason']}"
            )
        when = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self.group.on_rank0(lambda: record_divergence(files.out, {**entry, "when": when}))

    def _step_around(self) -> None:
        """Go on behind the rows that an earlier return to this step's checkpoint left out."""
        position = self._positions.get(self.state.step, 0)
        if position > self.loader.position:
            self.loader.seek(position)

    def _recipe_of_step(self) -> Recipe:
        """Give model and loader the recipe of this step, which another segment may have begun with."""
        recipe = recipe_at(self._segments, self.state.step)
        if recipe is not self.model.recipe:
            self.model.use_recipe(recipe)
        if recipe.schedule.micro_batch_size != self.loader.batch_size:
            self.loader.batch_size = recipe.schedule.micro_batch_size
        return recipe

    def _is_due(self, result: StepResult) -> bool:
        every = self._options.checkpoint_every
        return result.save_due or (every is not None and self.state.step % every == 0)

    def _line(self, result: StepResult, *, start: float, trained: float, stall_s: float) -> dict[str, Any]:
        state = self.state
        step_s = self._clock() - start
        line = {
            "step": state.step,
            "loss": result.loss,
            "lr": self.model.recipe.schedule.lr_at(state.step),
            "tokens": state.tokens,
            "step_s": step_s,
            "tokens_per_s": result.tokens / step_s,
            "data_wait_s": result.wait_s,
            "compute_s": trained - start - result.wait_s,
            "checkpoint_s": stall_s,
            **self._loader_times.step(),
            "grad_norm": result.grad_norm,
            "elapsed_s": self._clock() - self._begun,
            "position": self.loader.position,
        }
        if self._peak is not None:
            flops_per_s = result.tokens * self._flops_per_token / step_s
            line["mfu"] = self.mfu = flops_per_s / (self._peak * self.group.size)
        return line
