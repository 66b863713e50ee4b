"""Python's own sources, or files of text -> all steps of the demo, and a report of where the time went.

OUT/demo.json            options and finished steps
OUT/corpus/              part-*.jsonl.gz to train on, held-out.jsonl.gz
OUT/tokenizer.json       byte-level BPE, trained on the corpus
OUT/store/, held-out/    the same text as tokens
OUT/run/                 the model: metrics, checkpoints, report.html, plots/
OUT/prompts.jsonl        beginnings of held-out texts
OUT/predictions/         what the model generated from them, each stored once
"""

from __future__ import annotations

import dataclasses
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from headrace.demo.display import DemoDisplay
from headrace.demo.options import DemoOptions
from headrace.demo.state import exclusive, open_state
from headrace.demo.steps import STEPS, DemoContext, DemoStep
from headrace.formatting import duration
from headrace.ingestion import SourceFile, find_sources
from headrace.paths import local_path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStepTime:
    """How long one step of the demo took."""

    name: str
    seconds: float
    """In the run that finished it."""
    done_before: bool
    """Whether an earlier run had finished it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """The demo's paths, times and results."""

    out: Path
    report: Path
    plots: tuple[Path, ...]
    predictions: Path
    steps: tuple[DemoStepTime, ...]
    wall_s: float
    """Of this call."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """Each step's result, by its name."""


def run_demo(
    files: Sequence[str | PathLike[str]] = (),
    out: str | PathLike[str] = "headrace-demo",
    *,
    options: DemoOptions | None = None,
    restart: bool = False,
    display: DemoDisplay | None = None,
) -> DemoSummary:
    """Make a corpus, a tokenizer, a store, a loader comparison, a trained model, predictions and a report.

    After a kill the same call continues: finished steps are skipped, training continues from its last checkpoint,
    and every prediction is stored once.

    Args:
        files: text in any format that ingest reads; empty for the sources and documentation topics of the
            running Python.
        out: directory for everything.
        options: what to train and for how long.
        restart: delete an earlier demo in `out` first.
        display: where progress is shown; default stderr.

    Raises:
        ConfigError: `out` holds other files or a demo with other options, or another demo runs in it.
        ModuleNotFoundError: torch is not installed; nothing was written.
        SourceError, DocumentError: a file that cannot be used, by name and place.
        KeyboardInterrupt: a signal ended the training; its checkpoint is written.
    """
    import torch  # noqa: F401 - without torch the demo must fail now, not after three steps

    start = time.perf_counter()
    folder, options = local_path(out, name="demo: out"), options or DemoOptions()
    sources = find_sources(files) if files else []
    display = display or DemoDisplay(steps=len(STEPS))
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        state = open_state(
            folder,
            _recorded_options(options, sources),
            owned=[name for step in STEPS for name in step.writes],
            restart=restart,
        )
        context = DemoContext(
            out=folder,
            sources=tuple(sources),
            options=options,
            command=_command(files, folder, options),
            state=state,
            display=display,
        )
        times = [_run_step(step, context) for step in STEPS]
    summary = DemoSummary(
        out=folder,
        report=folder / "run" / "report.html",
        plots=tuple(sorted((folder / "run" / "plots").glob("*.svg"))),
        predictions=folder / "predictions",
        steps=tuple(times),
        wall_s=time.perf_counter() - start,
        results={step.name: state.result(step.name) for step in STEPS},
    )
    _print_next_commands(summary, display)
    return summary


def _recorded_options(options: DemoOptions, sources: Sequence[SourceFile]) -> dict[str, Any]:
    """Everything that the result depends on: a change of it needs --restart."""
    recorded = dataclasses.asdict(options)
    del recorded["measure_s"]
    if options.steps is not None:
        recorded["seconds"] = None  # not used then
    text = [[Path(source.url).name, source.nbytes, source.fingerprint] for source in sources]
    return {"text": text or f"standard library of Python {platform.python_version()}", **recorded}


def _run_step(step: DemoStep, context: DemoContext) -> DemoStepTime:
    """Run one step, unless it is finished and its files are still there."""
    result = context.state.result(step.name)
    if result is not None and all((context.out / name).exists() for name in step.writes):
        context.display.skip(step.name, step.sentence(result))
        return DemoStepTime(name=step.name, seconds=result["seconds"], done_before=True)
    start = time.perf_counter()
    with context.display.step(step.name) as (progress, show_result):
        result = dict(step.run(context, progress))
        result["seconds"] = time.perf_counter() - start
        context.state.record(step.name, result)
        show_result(step.sentence(result))
    if step.show is not None:
        step.show(context, result)
    return DemoStepTime(name=step.name, seconds=result["seconds"], done_before=False)


def _command(files: Sequence[str | PathLike[str]], out: Path, options: DemoOptions) -> str:
    """The command line that makes the same demo."""
    words = ["headrace", "demo", *(fspath(file) for file in files), "--out", str(out)]
    default = DemoOptions()
    for name in ("text_field", "seconds", "seed"):
        value = getattr(options, name)
        if value != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def _print_next_commands(summary: DemoSummary, display: DemoDisplay) -> None:
    run = summary.out / "run"
    display.print()
    display.print(f"report   {summary.report.resolve()}", style="bold")
    display.print(f"plots    {(run / 'plots').resolve()}")
    display.print(f"done in {duration(summary.wall_s)}; next:")
    display.print(f"  headrace inspect {summary.out / 'store'} --verify")
    display.print(
        f"  headrace generate --model {run} --prompts MY.txt --out my-predictions --temperature 0.8"
    )
    display.print(f"  headrace export {run} --out hf-model")
