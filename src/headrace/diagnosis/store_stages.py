"""A store and a loader's options -> tokens a second of the loader alone, and the ceiling of each of its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from headrace.diagnosis.kernel import read_usage
from headrace.diagnosis.options import StoreOptions
from headrace.errors import ConfigError
from headrace.formatting import approximate, nbytes, ratio
from headrace.load import Batch, Loader, ReadOptions
from headrace.platform import available_cores
from headrace.profile import ConfidenceInterval, rate_interval
from headrace.stats import StageCount
from headrace.store import Store

_SLICE_S: Final = 0.1
_PROBE_BYTES: Final = 64 << 20
_PROBE_READ: Final = 256 << 10
_PROBE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCeiling:
    """How fast the loader would be if all its other stages took no time."""

    name: str
    """storage (cold), storage (page cache), network, decompression, gather, hand-over."""
    tokens_per_s: float
    how: str
    """What the figure rests on."""
    bytes_per_s: float | None = None
    counts: bool = True
    """Whether every token passes this stage each time; not what is read or decoded once and then kept in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDiagnosis:
    """The loader alone, its stages, and whether it keeps up with a model."""

    store: str
    codec: str
    threads: int
    tokens_per_s: ConfidenceInterval
    stages: tuple[StageCeiling, ...]
    needed: float | None = None
    """Tokens a second that a model takes; None where no model was given."""
    needed_by: str = ""

    @property
    def slowest(self) -> StageCeiling | None:
        """The stage with the lowest ceiling of those that every token passes."""
        counted = [stage for stage in self.stages if stage.counts]
        return min(counted, key=lambda stage: stage.tokens_per_s, default=None)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        rate = f"The loader alone gives {approximate(self.tokens_per_s.value)} tokens/s"
        slowest = self.slowest
        if slowest is not None:
            rate += f"; its slowest stage is {slowest.name}"
        if self.needed is None:
            return f"{rate}."
        served = self.tokens_per_s.value / self.needed
        if self.tokens_per_s.low >= self.needed:
            return (
                f"{rate}; {self.needed_by} takes {approximate(self.needed)}, so the model is the limit "
                f"({ratio(served)} as much as it needs)."
            )
        if self.tokens_per_s.high >= self.needed:
            return (
                f"{rate}; {self.needed_by} takes {approximate(self.needed)}, which is within what was measured "
                f"({approximate(self.tokens_per_s.low)} to {approximate(self.tokens_per_s.high)}): which of them "
                "is the limit cannot be said. Measure longer: --seconds."
            )
        return (
            f"{rate}; {self.needed_by} takes {approximate(self.needed)}, so data is the limit: it gets "
            f"{100 * min(served, 1):.0f} % of what it could use."
        )

    def to_text(self) -> str:
        """The verdict and the stages, a few lines."""
        low, high = self.tokens_per_s.low, self.tokens_per_s.high
        measured = f"{approximate(low)} to {approximate(high)} tokens/s"
        lines = [self.sentence, f"  measured: {measured}, codec {self.codec}, {self.threads} threads"]
        for stage in self.stages:
            speed = "" if stage.bytes_per_s is None else f", {nbytes(stage.bytes_per_s)}/s"
            lines.append(
                f"  {stage.name}: at most {approximate(stage.tokens_per_s)} tokens/s{speed} ({stage.how})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "sentence": self.sentence,
            **asdict(self),
            "slowest": None if self.slowest is None else self.slowest.name,
        }


def diagnose_store(
    store: Store, options: StoreOptions, *, needed: float | None = None, needed_by: str = ""
) -> StoreDiagnosis:
    """Measure the loader of a store alone: as fast as it goes, with no training step beside it.

    Args:
        store: an open store.
        options: rows, threads and seconds.
        needed: tokens a second that a model takes.
        needed_by: what takes them.

    Raises:
        ConfigError: options that do not go together, or a store without a row of this length.
    """
    is_remote = "://" in os.fspath(store.url) and not os.fspath(store.url).startswith("file://")
    threads = threads_of(store, options)
    loader = make_loader(store, options, threads=threads)
    try:
        _read_some(loader, min(0.5, options.seconds / 4))
        before, opened = loader.stages(), loader.stages().get("decode", StageCount())
        amounts, seconds = read_slices(loader, options.seconds)
        done = {name: _difference(stage, before.get(name)) for name, stage in loader.stages().items()}
    finally:
        loader.close()
    tokens, wall_s = sum(amounts), sum(seconds)
    workers = max(1, min(threads, available_cores()))
    stages = _stages(done, tokens, wall_s, workers=workers, is_remote=is_remote)
    if opened.busy_s > 0 and not any(stage.name == "decompression" for stage in stages):
        speed = opened.bytes / opened.busy_s * workers
        stages.append(
            StageCeiling(
                name="decompression",
                tokens_per_s=speed / store.dtype.itemsize,
                bytes_per_s=speed,
                how=f"{workers} threads; decoded once, then kept in memory",
                counts=False,
            )
        )
    if not is_remote:
        stages = [*_probe_storage(store), *stages]
    stages.append(_hand_over(store, options))
    return StoreDiagnosis(
        store=os.fspath(store.url),
        codec=store.codec,
        threads=threads,
        tokens_per_s=rate_interval(amounts, seconds),
        stages=tuple(stages),
        needed=needed,
        needed_by=needed_by,
    )


def threads_of(store: Store, options: StoreOptions) -> int:
    """Threads that make batches: as given, or none for mapped stores, whose rows are gathered in the loop's thread."""
    if options.threads is not None:
        return options.threads
    local = "://" not in os.fspath(store.url) or os.fspath(store.url).startswith("file://")
    return 0 if local and store.codec == "none" else min(4, available_cores())


def make_loader(store: Store, options: StoreOptions, *, threads: int) -> Loader[Any]:
    """The loader that is measured: endless, of one rank."""
    return Loader(
        store,
        seq_len=options.seq_len,
        batch_size=options.batch_size,
        rank=0,
        world_size=1,
        shuffle=options.shuffle,
        reading=ReadOptions(threads=threads),
    )


def read_slices(loader: Loader[Any], seconds: float) -> tuple[list[float], list[float]]:
    """Tokens and seconds of each tenth of a second of reading."""
    amounts: list[float] = []
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end_s or len(amounts) < 5:
        tokens = _read_some(loader, _SLICE_S)
        amounts.append(float(tokens))
        times.append(time.perf_counter() - start)
    return amounts, times


def _read_some(loader: Loader[Any], seconds: float) -> int:
    tokens, end_s = 0, time.perf_counter() + seconds
    while True:
        tokens += _tokens_of(next(loader))
        if time.perf_counter() >= end_s:
            return tokens


def _tokens_of(batch: Batch[Any]) -> int:
    rows, width = batch.tokens.shape
    return int(rows) * (int(width) - 1)


def _difference(after: StageCount, before: StageCount | None) -> StageCount:
    if before is None:
        return after
    return StageCount(
        items=after.items - before.items,
        bytes=after.bytes - before.bytes,
        busy_s=after.busy_s - before.busy_s,
        wait_s=after.wait_s - before.wait_s,
    )


def _stages(
    done: Mapping[str, StageCount], tokens: float, wall_s: float, *, workers: int, is_remote: bool
) -> list[StageCeiling]:
    """Capacity of each stage: what it did, by its busy seconds, times the threads that do it."""
    read, decode, gather = (done.get(name, StageCount()) for name in ("read", "decode", "gather"))
    found = []
    if is_remote and read.busy_s > 0:
        under_way = max(1.0, read.busy_s / wall_s)
        found.append(
            StageCeiling(
                name="network",
                tokens_per_s=tokens / read.busy_s * under_way,
                bytes_per_s=read.bytes / read.busy_s * under_way,
                how=f"{under_way:.1f} requests under way",
            )
        )
    if decode.busy_s > 0.05 * wall_s:
        found.append(
            StageCeiling(
                name="decompression",
                tokens_per_s=tokens / decode.busy_s * workers,
                bytes_per_s=decode.bytes / decode.busy_s * workers,
                how=f"{workers} threads, bytes decoded",
            )
        )
    own_s = gather.busy_s - decode.busy_s if not is_remote else 0.0
    if own_s > 0.001 * wall_s:
        found.append(
            StageCeiling(
                name="gather",
                tokens_per_s=tokens / own_s * workers,
                bytes_per_s=gather.bytes / own_s * workers,
                how="rows copied into batches, page faults included",
            )
        )
    return found


def _probe_storage(store: Store) -> list[StageCeiling]:
    """Shard files read in random pieces, first with the page cache emptied of them, then from it."""
    path = Path(os.fspath(store.url).removeprefix("file://"))
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    if not files or not hasattr(os, "posix_fadvise"):
        return []
    file = max(files, key=lambda one: one.stat().st_size)
    size = file.stat().st_size
    total = sum(one.stat().st_size for one in files)
    if size < _PROBE_READ:
        return []
    places = (
        np.random.default_rng(0).permutation(size // _PROBE_READ)[: _PROBE_BYTES // _PROBE_READ] * _PROBE_READ
    )
    bytes_per_token = max(total / max(store.num_tokens, 1), 1e-9)
    handle = os.open(file, os.O_RDONLY)
    found = []
    try:
        for name in ("storage (cold)", "storage (page cache)"):
            if name == "storage (cold)":
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            from_disk, read, start = _disk_bytes(), 0, time.perf_counter()
            for place in places:
                read += len(os.pread(handle, _PROBE_READ, int(place)))
                if time.perf_counter() - start > _PROBE_S:
                    break
            speed = read / (time.perf_counter() - start)
            is_cold = name == "storage (cold)"
            if is_cold and _disk_bytes() - from_disk < read / 2:
                continue  # the system has kept the file in memory: there is nothing cold to measure
            how = "one read of 256 KiB at a time, at random"
            found.append(
                StageCeiling(
                    name=name,
                    tokens_per_s=speed / bytes_per_token,
                    bytes_per_s=speed,
                    how=how,
                    counts=not is_cold,
                )
            )
    finally:
        os.close(handle)
    return found


def _disk_bytes() -> int:
    return read_usage(os.getpid()).disk_bytes


def _hand_over(store: Store, options: StoreOptions) -> StageCeiling:
    """Batches that a thread has made already, taken one after the other."""
    loader = make_loader(store, replace(options, batch_size=min(options.batch_size, 32)), threads=1)
    took_s, tokens = float("inf"), 0
    try:
        for _ in range(3):
            for _ in range(5):  # as many as are made ahead, so that four are under way afterwards
                next(loader)
            made = -1
            while (now := loader.stages()["gather"].items) != made:
                made = now
                time.sleep(0.05)
            for _ in range(3):
                start = time.perf_counter()
                batch = next(loader)
                # The shortest: on a busy machine the others were interrupted.
                took_s = min(took_s, time.perf_counter() - start)
                tokens = _tokens_of(batch)
    finally:
        loader.close()
    return StageCeiling(
        name="hand-over",
        tokens_per_s=tokens / took_s,
        how=f"{1e6 * took_s:.0f} us a batch that was made ahead",
    )


def needed_tokens_per_s(model: str, options: StoreOptions) -> tuple[float, str]:
    """Tokens a second that a model takes: of a run, as measured; of a name on a GPU, as planned.

    Raises:
        ConfigError: neither a run nor a model that the planner knows.
    """
    if (Path(model) / "metrics.jsonl").is_file():
        from headrace.profile import read_run_files

        steps = read_run_files(model).steps
        compute_s = sum(step.compute_s for step in steps)
        if not steps or compute_s <= 0:
            raise ConfigError(f"--model {model}: no step of this run was timed. Give one that has trained")
        return steps[-1].tokens / compute_s, f"the run {Path(model).name}, without its waits,"
    from headrace import plan

    job = plan.TrainingJob(
        shape=plan.model_shape(model),
        hardware=plan.gpu_by_name(options.gpu),
        gpus=1,
        seq_len=options.seq_len,
        global_batch=options.batch_size,
    )
    steps_constants, memories = plan.shipped()
    layouts = plan.search(job, steps_constants, memories)
    best = plan.summary_of(layouts, job, steps_constants, 0)
    return float(best["tokens_per_s"]), f"{model} on one {options.gpu}"
