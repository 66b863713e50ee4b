"""`headrace train`: stores -> a run directory."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import typer
from typing_extensions import Doc

from headrace.cli.console import count, facts, print_json, progress_bar, stderr, stdout, warnings_logged
from headrace.cli.options import with_options
from headrace.errors import ConfigError, HeadraceError
from headrace.training import (
    CheckpointOptions,
    DataOptions,
    EvaluationOptions,
    LoraOptions,
    OptimizerOptions,
    ParallelOptions,
    RunOptions,
    RunSummary,
    ShapeOptions,
)

EXAMPLES = """[bold]Examples[/bold]

headrace train store --model tiny --steps 500 --out run

headrace train store --model gpt3-125m --seq-len 2048 --batch-size 256 --steps 1000 --out run

headrace train store --init-from hf-model --steps 1000 --lr 1e-5 --out run

headrace train store --init-from hf-model --lora-r 16 --lora-target-modules all-linear --steps 1000 --out tuned

headrace train store --model qwen3-0.6b --seq-len 2048 --batch-size 64 --steps 1000 --out run

headrace train store --num-hidden-layers 12 --hidden-size 768 --num-attention-heads 12 --num-key-value-heads 4 \
--steps 1000 --out run

headrace train store --depth 12 --gradient-accumulation-steps 32 --out run

headrace train store --model gpt3-125m --optimizer muon --steps 1000 --out run

Held-out loss every 100 steps, until it was not lower five times; steps that diverge are left out:

headrace train store --model gpt3-125m --steps 10000 --eval-stores held-out --eval-every 100 --patience 5 \
--on-divergence skip --spike-sigma 6 --out run

What the model writes after prompts of your own, every 200 steps, in samples.jsonl, the log and the report:

headrace train store --model gpt3-125m --steps 10000 --sample-prompt "Once upon a time" --sample-every 200 --out run

torchrun --nproc-per-node 4 -m headrace train store --model gpt3-125m --dp 2 --tp 2 --steps 1000 --out run

torchrun --nproc-per-node 4 -m headrace train store --model gpt3-125m --layout auto --steps 1000 --out run

A run on an object store, its checkpoints sent while training goes on:

headrace train store --model tiny --steps 500 --out s3://bucket/run

The same command again goes on where a killed run stopped; --out alone keeps its options, and what is given
changes its later steps:

headrace train store --out run --steps 2000 --lr 1e-4 --batch-size 64

A branch of a run at step 400, with moments and position, whose rate decays to zero over 100 steps:

headrace train store --init-from run@400 --init-state full --lr-schedule wsd --cooldown-steps 100 --min-lr-ratio 0 \
--steps 500 --out branch
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainModelOptions:
    """Model, steps and held-out stores."""

    model: Annotated[
        str | None,
        Doc(
            "tiny | gpt3-125m ... gpt3-175b | llama3.2-1b, qwen3-0.6b, gemma3-270m, olmo2-1b, smollm2-135m, ... "
            "(docs/models.md). Default: tiny, or that of --init-from."
        ),
    ] = None
    init_from: Annotated[
        str | None,
        Doc(
            "A Hugging Face directory (gpt2, llama, qwen3, ...), peft's adapter directory or a run (RUN, RUN@STEP, "
            "RUN@best) to begin with: a path, a URL or hf://OWNER/NAME."
        ),
    ] = None
    steps: Annotated[int | None, Doc("Optimizer steps in all; or give --tokens or --max-seconds.")] = None
    eval_stores: Annotated[tuple[str, ...], Doc("Held-out store, logged as eval_loss; may be repeated.")] = ()
    sample_prompts: Annotated[
        str | None,
        Doc(
            "File of prompts (.txt, .jsonl, .csv, .parquet) that the model continues every --sample-every steps."
        ),
    ] = None
    sample_prompt: Annotated[tuple[str, ...], Doc("Text of such a prompt; may be repeated.")] = ()

    @property
    def prompts(self) -> str | list[str] | None:
        """What samples continue.

        Raises:
            ConfigError: a file and texts.
        """
        if self.sample_prompts is not None and self.sample_prompt:
            raise ConfigError(
                "train: --sample-prompts FILE and --sample-prompt TEXT are both given. Leave one out."
            )
        return self.sample_prompts or list(self.sample_prompt) or None


@with_options(
    model=TrainModelOptions,
    shape=ShapeOptions,
    data=DataOptions,
    optimizer=OptimizerOptions,
    parallel=ParallelOptions,
    checkpoint=CheckpointOptions,
    evaluation=EvaluationOptions,
    run=RunOptions,
    lora=LoraOptions,
)
def train(
    *,
    stores: Annotated[
        list[str], typer.Argument(help="One store, or several mixed by their sizes.", show_default=False)
    ],
    out: Annotated[
        str,
        typer.Option(help="The run directory, or its s3://, gs:// or az:// URL.", show_default=False),
    ],
    model: TrainModelOptions,
    shape: ShapeOptions,
    data: DataOptions,
    optimizer: OptimizerOptions,
    parallel: ParallelOptions,
    checkpoint: CheckpointOptions,
    evaluation: EvaluationOptions,
    run: RunOptions,
    lora: LoraOptions,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Train a GPT-3 or a Llama-like model on stores. Killed? The same command goes on, with the same loss curve."""
    from headrace.training import train as run_training

    is_rank0 = os.environ.get("RANK", "0") == "0"
    # Without a terminal the log has the steps' lines.
    shows_bar = stderr.is_terminal and is_rank0 and not json
    try:
        with (
            warnings_logged(),
            progress_bar("train", unit="steps") if shows_bar else nullcontext() as progress,
        ):
            summary = run_training(
                stores,
                out=out,
                model=_one_of(model, shape),
                init_from=model.init_from,
                steps=model.steps,
                data=data,
                optimizer=optimizer,
                parallel=parallel,
                checkpoint=checkpoint,
                evaluation=dataclasses.replace(
                    evaluation, eval_stores=list(model.eval_stores) or None, sample_prompts=model.prompts
                ),
                run=dataclasses.replace(run, lora=lora),
                progress=progress,
            )
    except HeadraceError as error:
        if not error.shared:
            raise
        # Rank 0 prints it, once. torchrun ends all ranks when the first one ends: rank 0 gets the time to.
        time.sleep(1.0)
        raise typer.Exit(error.exit_code) from None
    if is_rank0:
        _print_summary(summary, json=json)
    if summary.stopped_by is not None:  # steps are left: a scheduler must not count the job as complete
        raise typer.Exit(128 + signal.Signals[summary.stopped_by])


def _one_of(model: TrainModelOptions, shape: ShapeOptions) -> str | ShapeOptions | None:
    if not shape.is_given:
        return model.model
    if model.model is not None:
        raise ConfigError(
            f"train: --model {model.model} has a shape, and options of another are given. Leave one of them out."
        )
    return shape


def _print_summary(summary: RunSummary, *, json: bool) -> None:
    if json:
        print_json(summary)
        return
    if summary.resumed_from == summary.steps:
        state = "has used up its patience" if summary.stopped_early else "is done"
        stdout.print(
            f"{summary.out}: {state} at step {count(summary.steps)}; nothing was left to do",
            soft_wrap=True,
        )
        return
    learning = count(summary.parameters)
    if summary.trainable_parameters != summary.parameters:
        learning += f", {count(summary.trainable_parameters)} of them learn (LoRA)"
    rows = [
        ("steps", f"{count(summary.steps)} of {count(summary.total_steps)}"),
        ("parameters", learning),
        ("tokens", count(summary.tokens)),
        ("loss", "-" if summary.loss is None else f"{summary.loss:.4f}"),
        ("tokens/s", count(summary.tokens_per_s)),
        ("MFU", "unknown hardware" if summary.mfu is None else f"{100 * summary.mfu:.1f} %"),
        ("native", summary.native),
        ("run", str(summary.out)),
    ]
    if summary.eval_loss is not None:
        bits = summary.eval_bits_per_byte
        per_byte = "" if bits is None else f" ({bits:.4f} bits per byte)"
        stale = summary.eval_step is not None and summary.eval_step != summary.steps
        step = f" after step {count(summary.eval_step or 0)}" if stale else ""
        rows.insert(4, ("eval loss", f"{summary.eval_loss:.4f}{per_byte}{step}"))
    if summary.best_step is not None:
        rows.append(("best", f"step {count(summary.best_step)}: {summary.out}@best"))
    if summary.stopped_early:
        rows.append(
            ("stopped early", "the held-out loss was not lower for as many evaluations as --patience")
        )
    if summary.hit_rate is not None:
        rows.insert(2, ("embeddings", f"{100 * summary.hit_rate:.1f} % of the tokens found a vector"))
    if summary.resumed_from:
        rows.append(("went on from", f"step {count(summary.resumed_from)}"))
    rows += [("note", note) for note in summary.notes]
    if summary.stopped_by:
        rows.append(("stopped by", f"{summary.stopped_by}; the same command goes on"))
    stdout.print(facts("trained", rows))
