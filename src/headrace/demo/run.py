"""Nothing but Python, or files of text -> the main job from end to end, and a report of where the time went.

OUT/demo.json            what was asked for, and which steps are done
OUT/corpus/              part-*.jsonl.gz to train on, held-out.jsonl.gz
OUT/tokenizer.json       byte-level BPE, trained on the corpus
OUT/store/, held-out/    the same text as tokens
OUT/run/                 the model: metrics, checkpoints, report.html, plots/
OUT/prompts.jsonl        beginnings from held-out text
OUT/predictions/         what the model made of them, each stored once
"""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from headrace.demo.journal import only_one, open_journal
from headrace.demo.show import Stage
from headrace.demo.steps import STEPS, Step, Story
from headrace.ingestion.read.sources import find_sources
from headrace.profile.where import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step of the story."""

    name: str
    seconds: float
    """Of the run that finished it."""
    done_before: bool
    """An earlier run had finished it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """What a demo made, and where it is."""

    out: Path
    report: Path
    plots: tuple[Path, ...]
    predictions: Path
    steps: tuple[StepTime, ...]
    wall_s: float
    """Of this call."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """What each step found, by its name."""


def run_demo(
    files: Sequence[str | PathLike[str]] = (),
    out: str | PathLike[str] = "headrace-demo",
    *,
    text_field: str = "text",
    seconds: float = 120.0,
    steps: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    vocab_size: int = 4096,
    model: str = "tiny",
    seq_len: int | None = None,
    batch_size: int | None = None,
    prompts: int = 64,
    measure_s: float = 10.0,
    stage: Stage | None = None,
) -> DemoSummary:
    """Text, tokenizer, store, the naive way beside ours, a trained model, its predictions, a report.

    Killed at any moment, the same call goes on where it stopped: finished steps
    are passed over, training continues from its last checkpoint, and every
    prediction is stored once.

    Args:
        files: text in any form that ingest reads; none means the sources and documentation
            topics of the running Python.
        out: directory for all of it.
        text_field: column or key of the files that holds the text.
        seconds: how long to train.
        steps: optimizer steps instead of seconds.
        seed: of weights, order and sampling.
        fresh: delete an earlier demo in `out` first.
        vocab_size: ids of the tokenizer that is trained.
        model: a size's name.
        seq_len: tokens of a row; default the size's context.
        batch_size: rows of a training step; default the size's own.
        prompts: predictions to make.
        measure_s: how long each way of loading is measured.
        stage: where progress is shown; default stderr.

    Returns:
        Paths and figures.

    Raises:
        ConfigError: `out` holds something else, or another demo runs in it.
        ModuleNotFoundError: torch is not installed; nothing was written.
        SourceError, DocumentError: a file that cannot be used, by name and place.
        KeyboardInterrupt: a signal ended the training; its checkpoint is written.
    """
    import torch  # noqa: F401 - a core without it should say so now, not after three steps

    begun = time.perf_counter()
    folder = Path(out)
    sources = find_sources(files) if files else []
    asked = {
        "text": [[Path(source.url).name, source.nbytes, source.fingerprint] for source in sources]
        or f"standard library of Python {platform.python_version()}",
        "text_field": text_field,
        "seconds": seconds if steps is None else None,
        "steps": steps,
        "seed": seed,
        "vocab_size": vocab_size,
        "model": model,
        "seq_len": seq_len,
        "batch_size": batch_size,
        "prompts": prompts,
    }
    stage = stage or Stage(steps=len(STEPS))
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        journal = open_journal(
            folder, asked, owned=[name for step in STEPS for name in step.writes], fresh=fresh
        )
        story = Story(
            out=folder,
            sources=tuple(sources),
            text_field=text_field,
            seconds=seconds,
            total_steps=steps,
            seed=seed,
            vocab_size=vocab_size,
            model=model,
            row_tokens=seq_len,
            batch_size=batch_size,
            prompts=prompts,
            measure_s=measure_s,
            command=_command(files, folder, seconds=seconds),
            journal=journal,
            stage=stage,
        )
        times = [_take(step, story) for step in STEPS]
    summary = DemoSummary(
        out=folder,
        report=folder / "run" / "report.html",
        plots=tuple(sorted((folder / "run" / "plots").glob("*.png"))),
        predictions=folder / "predictions",
        steps=tuple(times),
        wall_s=time.perf_counter() - begun,
        results={step.name: journal.done(step.name) for step in STEPS},
    )
    _farewell(summary, stage)
    return summary


def _take(step: Step, story: Story) -> StepTime:
    """Run one step, unless it is done and what it wrote is still there."""
    found = story.journal.done(step.name)
    if found is not None and all((story.out / name).exists() for name in step.writes):
        story.stage.skip(step.name, step.sentence(found))
        return StepTime(name=step.name, seconds=found["seconds"], done_before=True)
    start = time.perf_counter()
    with story.stage.step(step.name) as (progress, say):
        found = dict(step.run(story, progress))
        found["seconds"] = time.perf_counter() - start
        story.journal.record(step.name, found)
        say(step.sentence(found))
    if step.show is not None:
        step.show(story, found)
    return StepTime(name=step.name, seconds=found["seconds"], done_before=False)


def _command(files: Sequence[str | PathLike[str]], out: Path, *, seconds: float) -> str:
    words = ["headrace", "demo", *(fspath(file) for file in files), "--out", str(out)]
    return shlex.join(words if seconds == 120 else [*words, "--seconds", f"{seconds:g}"])


def _farewell(summary: DemoSummary, stage: Stage) -> None:
    run = summary.out / "run"
    stage.say()
    stage.say(f"report   {summary.report.resolve()}", style="bold")
    stage.say(f"plots    {(run / 'plots').resolve()}")
    stage.say(f"done in {duration(summary.wall_s)}; next:")
    stage.say(f"  headrace inspect {summary.out / 'store'} --verify")
    stage.say(f"  headrace generate --model {run} --prompts MY.txt --out my-predictions --temperature 0.8")
    stage.say(f"  headrace export {run} --out hf-model")
