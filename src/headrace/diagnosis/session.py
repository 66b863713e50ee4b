"""Events of one loop -> when batches are held in memory, when to stop, and the diagnosis at the end."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from headrace.diagnosis.advice import advise
from headrace.diagnosis.evidence import Evidence, collect_evidence
from headrace.diagnosis.held import share_memory
from headrace.diagnosis.kernel import Usage, read_usage
from headrace.diagnosis.limiter import find_limiter
from headrace.diagnosis.model_work import model_work
from headrace.diagnosis.options import DiagnoseOptions
from headrace.diagnosis.recorder import FIRST_LIVE_STEPS, MIN_PAIRS, StepRecorder
from headrace.diagnosis.result import Diagnosis
from headrace.diagnosis.sampler import LoopSampler
from headrace.diagnosis.worker_sampling import WorkerSamples, starts_workers

_EVALUATIONS_SHARE = 0.004
"""Share of the loop's time that computing intervals may take."""
_UNKNOWN_LENGTH_STEPS = 200
"""After so many steps of a loop of unknown length, its length is taken to be what it has run."""


@dataclass(slots=True, kw_only=True)
class _Cost:
    own_s: float = 0.0
    """Seconds of intervals and readings."""
    evaluate_s: float = 0.002
    """Seconds of the last computation of intervals."""
    ahead_s: float = 0.0
    """Seconds that the loop waited because batches were made ahead: more than it would have waited for them."""


class Session:
    """What is known of a loop, over all its passes.

    Args:
        options: see `DiagnoseOptions`.
        waits_only: why free blocks cannot be made for this loader; empty where they can.
        length: batches of a pass, where the loader has a length.
        clock: seconds.
        observe: whether threads, processes and counters are observed.
        model: a torch module, for MFU.
        on_result: called once with the diagnosis.
    """

    def __init__(
        self,
        options: DiagnoseOptions,
        *,
        waits_only: str = "",
        length: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        observe: bool = True,
        model: Any = None,
        on_result: Callable[[Diagnosis], None] | None = None,
    ) -> None:
        self.options = options
        self.recorder = StepRecorder(warmup_steps=options.warmup_steps, block_steps=options.block_steps)
        self.result: Diagnosis | None = None
        self.clock = clock
        self._waits_only = "" if options.method == "blocks" else waits_only
        if options.method == "waits":
            self._waits_only = 'method="waits"'
        self._length = length
        self._model = model
        self._tokens: int = 0
        self._on_result = on_result
        self._cost = _Cost()
        self._next_evaluation = FIRST_LIVE_STEPS
        self._kept: list[Any] = []
        """Batches of live steps before the first free block, to see whether their memory is used again."""
        self._checked = options.method == "blocks"
        self._was_narrow = False
        self._first_wait_s = 0.0
        self._queue: list[int] = []
        self._began_s = clock()
        self._sampler = LoopSampler() if observe else None
        self.worker_samples = WorkerSamples() if observe and os.name == "posix" else None
        self._usage = read_usage(os.getpid()) if observe else None
        self._usage_later = Usage()
        if self._sampler is not None:
            self._sampler.start()

    @property
    def is_over(self) -> bool:
        """Whether nothing is measured any more."""
        return self.result is not None

    # --- a step ---

    def begin_pass(self, *, sampled_workers: bool) -> None:
        """A new pass begins."""
        self.recorder.begin_pass()
        if self._sampler is not None and sampled_workers:
            self._sampler.workers_sample_themselves = True

    def sample_workers(self, loader: Any) -> Callable[[], None] | None:
        """Have the workers that a DataLoader is about to start be sampled from inside.

        Returns:
            What undoes the change to the loader, once they have started; None where there is nothing to undo.
        """
        if self.is_over or self.worker_samples is None or not starts_workers(loader):
            return None
        return self.worker_samples.install(loader)

    def set_waiting(self, waiting: bool) -> None:
        """Say whether the loop waits for its loader."""
        if self._sampler is not None:
            self._sampler.set_waiting(waiting)
        if self.worker_samples is not None:
            self.worker_samples.set_waiting(waiting)

    def end_step(self, *, holds: int) -> None:
        """The loop asks for a batch.

        Args:
            holds: batches in memory.
        """
        if holds == 0 and self.recorder.is_edge:
            _synchronize()
        self.recorder.end_step(self.clock())
        start = time.perf_counter()
        recorder = self.recorder
        if recorder.live_steps >= self._next_evaluation or recorder.steps >= self.options.steps:
            self._evaluate()
        self._cost.own_s += time.perf_counter() - start

    @property
    def batches_ahead(self) -> int:
        """Batches to hold in memory now: 0, or those of a free block."""
        if self.is_over or self._waits_only or not self.recorder.is_free_block_due:
            return 0
        if not self._checked:
            self._checked = True
            shared, self._kept = share_memory(self._kept), []
            if shared:
                self._waits_only = "the loader uses a batch's memory again"
                return 0
        return self.options.block_steps if self._affords_block() else 0

    def add_ahead(self, seconds: float, batches: int) -> None:
        """Batches were taken into memory; it took so long."""
        wait_s, _ = self.recorder.mean_live_s()
        self._cost.ahead_s += seconds - batches * wait_s

    def begin_step(
        self, batch: Any, requested_s: float, *, free: bool, first: bool, ready: int | None
    ) -> None:
        """A batch is handed over."""
        delivered_s = self.clock()
        if first:
            self._first_wait_s = max(self._first_wait_s, delivered_s - requested_s)
        elif ready is not None and not free:
            self._queue.append(ready)
        if self._model is not None and not self._tokens:
            self._tokens = count_tokens(batch)
        if not self._checked and not self._waits_only:
            self._kept.append(batch)
            del self._kept[: -2 * self.options.block_steps]
        self.recorder.begin_step(requested_s, delivered_s, free=free)

    # --- cost and end ---

    def _affords_block(self) -> bool:
        """Whether another free block stays within the cost."""
        options, elapsed_s = self.options, self.clock() - self._began_s
        wait_s, cycle_s = self.recorder.mean_live_s()
        blocks = self.recorder.free_blocks
        if blocks:
            next_s = max(0.0, self._cost.ahead_s / blocks)
        elif self._is_synchronous():
            next_s = 0.0
        else:  # at worst the loader stops while the step computes, and the step waits while the loader loads
            next_s = options.block_steps * (cycle_s - wait_s)
        expected_s = max(elapsed_s, (self._length or 0) * cycle_s)
        missing = (
            max(1, MIN_PAIRS - blocks) if self._length is not None else 1
        )  # fewer than these are of no use
        return self._cost.ahead_s + missing * next_s <= 0.7 * options.max_cost * expected_s

    def _is_synchronous(self) -> bool:
        """Whether the loop's own thread does the loader's work."""
        if self._sampler is None:
            return False
        main = self._sampler.samples.main
        return sum(main.values()) >= 5 and main["idle"] < 0.05 * sum(main.values())

    def _evaluate(self) -> None:
        recorder, options = self.recorder, self.options
        self._next_evaluation = max(recorder.live_steps + 8, int(1.2 * recorder.live_steps))
        elapsed_s = self.clock() - self._began_s
        out_of_steps = recorder.steps >= options.steps
        if not out_of_steps and self._cost.own_s + self._cost.evaluate_s > _EVALUATIONS_SHARE * elapsed_s:
            return
        start = time.perf_counter()
        if self._sampler is not None:
            self._usage_later = read_usage(os.getpid())
        stall = recorder.stall_share()
        self._cost.evaluate_s = time.perf_counter() - start
        expects_blocks = not self._waits_only and recorder.free_blocks < MIN_PAIRS
        if expects_blocks and (self._length is not None or recorder.steps >= _UNKNOWN_LENGTH_STEPS):
            expects_blocks = self._affords_block()
        is_narrow = stall.half_width <= options.precision and not expects_blocks
        # Twice: one narrow interval of many may be so by chance.
        if out_of_steps or (is_narrow and self._was_narrow):
            self.finish()
        self._was_narrow = is_narrow

    def finish(self) -> Diagnosis:
        """End measuring and make the diagnosis; a second call returns the same."""
        if self.result is not None:
            return self.result
        self.set_waiting(False)
        if self._sampler is not None:
            self._sampler.close()
        self._kept = []
        evidence = self._evidence()
        recorder = self.recorder
        stall, waits = recorder.stall_share(), recorder.wait_share()
        finding = find_limiter(stall, evidence)
        blocks = recorder.free_blocks if recorder.uses_blocks else 0
        _, cycle_s = recorder.mean_live_s()
        elapsed_s = max(self.clock() - self._began_s, 1e-9)
        sampled_s = self._sampler.pace.spent_s if self._sampler is not None else 0.0
        self.result = Diagnosis(
            stall=stall,
            waits=waits,
            step_s=cycle_s,
            finding=finding,
            method="blocks" if blocks else "waits",
            note=self._note(blocks),
            steps=recorder.live_steps,
            free_blocks=blocks,
            first_wait_s=self._first_wait_s,
            cost=(self._cost.own_s + max(0.0, self._cost.ahead_s) + sampled_s) / elapsed_s,
            evidence=evidence,
            advice=advise(stall, finding, evidence),
            model=None
            if self._model is None
            else model_work(self._model, tokens=self._tokens, work_s=cycle_s * (1 - stall.value)),
        )
        self._model = None
        if self._on_result is not None:
            self._on_result(self.result)
        return self.result

    def _note(self, blocks: int) -> str:
        if self._waits_only:
            return f"by the waits alone: {self._waits_only}"
        if self.recorder.is_noisy:
            return "blocks with free data differ more by noise than by the loader, and count for little"
        if not blocks:
            return "by the waits alone: too few steps to hold batches in memory within the cost"
        return ""

    def _evidence(self) -> Evidence:
        if self._sampler is None or self._usage is None:
            return Evidence()
        inside, workers = Counter[str](), 0
        if self.worker_samples is not None:
            inside, workers = self.worker_samples.read()
            self.worker_samples.close()
        self._sampler.samples.workers = max(self._sampler.samples.workers, workers)
        after = read_usage(os.getpid())
        if len(self._usage_later.workers_s) > len(after.workers_s):  # they have ended with their pass
            after = replace(after, workers_s=self._usage_later.workers_s)
        return collect_evidence(
            self._sampler.samples,
            inside,
            self._usage,
            after,
            wall_s=max(self.clock() - self._began_s, 1e-9),
            queue_fill=sum(self._queue) / len(self._queue) if self._queue else None,
        )


def _synchronize() -> None:
    """Wait until a GPU has done what was asked of it, so that a block's time is its own."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def count_tokens(batch: Any) -> int:
    """Elements of a batch's input_ids, or of its first array; 0 where it has none."""
    if hasattr(batch, "get") and not isinstance(batch, type):
        found = batch.get("input_ids")
        if found is not None:
            return count_tokens(found)
        values = list(batch.values()) if hasattr(batch, "values") else []
        return count_tokens(values[0]) if values else 0
    if isinstance(batch, list | tuple):
        return count_tokens(batch[0]) if batch else 0
    shape = getattr(batch, "shape", None)
    if shape is None:
        return 0
    total = 1
    for size in shape[:2]:  # [rows, tokens]; a third dimension is features
        total *= int(size)
    return total
