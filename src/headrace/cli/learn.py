"""`headrace train`, `headrace import`: a store, or a model made elsewhere -> a run directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, stdout, warn
from headrace.errors import HeadraceError

TRAIN_EXAMPLES = """[bold]Examples[/bold]

headrace train store --model tiny --steps 500 --out run

headrace train store --model gpt3-125m --seq-len 2048 --batch-size 256 --steps 1000 --out run

headrace train store --from hf-model --steps 1000 --lr 1e-5 --out run

torchrun --nproc-per-node 4 -m headrace train store --model gpt3-125m --dp 2 --tp 2 --steps 1000 --out run

The same command again goes on where a killed run stopped.
"""
IMPORT_EXAMPLES = """[bold]Example[/bold]

headrace import hf-model --to run

headrace train store --out run --steps 1000 --lr 1e-5
"""
_RECIPE, _LAYOUT, _WATCH = "Recipe", "Layout, free to change between starts", "Seeing and saving"


def train(
    *,
    stores: Annotated[
        list[str], typer.Argument(help="One store, or several mixed by their sizes.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The run directory.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(
            help="tiny | gpt3-125m | gpt3-350m | ... | gpt3-175b. Default: tiny, or that of --from."
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option("--from", help="A Hugging Face directory (GPT-2 format) or a run to begin with."),
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="word2vec vectors or a BERT directory for the first token table.")
    ] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a row. Default: the size's context.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Global rows of a step. Default: the paper's tokens.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Instead of steps: as many as fit, measured first.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate. Default: the paper's for the size.", rich_help_panel=_RECIPE),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            help="Default: the paper's 375 M tokens, at most a tenth of the steps.", rich_help_panel=_RECIPE
        ),
    ] = None,
    decay_steps: Annotated[
        int | None,
        typer.Option(
            help="Where the cosine ends. Default: the paper's 260 G tokens, at most steps.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    floor: Annotated[
        float, typer.Option(help="Share of the rate that the cosine ends at.", rich_help_panel=_RECIPE)
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="On matrices only.", rich_help_panel=_RECIPE)] = 0.1,
    clip: Annotated[
        float, typer.Option(help="Largest gradient norm; 0 leaves it.", rich_help_panel=_RECIPE)
    ] = 1.0,
    accumulate: Annotated[
        int,
        typer.Option(help="Pieces that a step's rows run in, one after the other.", rich_help_panel=_RECIPE),
    ] = 1,
    ramp_from: Annotated[
        int | None,
        typer.Option(help="Rows of the first step; they grow to --batch-size.", rich_help_panel=_RECIPE),
    ] = None,
    ramp_steps: Annotated[
        int, typer.Option(help="Steps that the batch grows in.", rich_help_panel=_RECIPE)
    ] = 0,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of matrix products: auto | float32 | bfloat16.", rich_help_panel=_RECIPE),
    ] = "auto",
    banded: Annotated[
        bool,
        typer.Option(
            "--banded", help="Alternate dense and locally banded attention.", rich_help_panel=_RECIPE
        ),
    ] = False,
    packing: Annotated[
        Literal["none", "best_fit"],
        typer.Option(
            help="none: cut the stream | best_fit: whole documents side by side.", rich_help_panel=_RECIPE
        ),
    ] = "none",
    dp: Annotated[
        int, typer.Option(help="Data-parallel degree; -1: what the others leave.", rich_help_panel=_LAYOUT)
    ] = -1,
    tp: Annotated[int, typer.Option(help="Tensor-parallel degree.", rich_help_panel=_LAYOUT)] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline-parallel degree.", rich_help_panel=_LAYOUT)] = 1,
    shard: Annotated[
        Literal["none", "zero2", "zero3"],
        typer.Option(help="Over dp: none (DDP) | zero2 | zero3 (FSDP2).", rich_help_panel=_LAYOUT),
    ] = "none",
    pipeline: Annotated[
        Literal["1f1b", "gpipe", "interleaved"],
        typer.Option(help="Schedule: 1f1b | gpipe | interleaved.", rich_help_panel=_LAYOUT),
    ] = "1f1b",
    microbatches: Annotated[
        int | None,
        typer.Option(help="Pieces that a rank's rows pass the pipeline in.", rich_help_panel=_LAYOUT),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Activation checkpointing.", rich_help_panel=_LAYOUT)
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile each block.", rich_help_panel=_LAYOUT)
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="cpu | cuda. Default: a GPU where there is one.", rich_help_panel=_LAYOUT),
    ] = None,
    eval_store: Annotated[
        str | None,
        typer.Option(help="Held-out store; its loss is logged as eval_loss.", rich_help_panel=_WATCH),
    ] = None,
    eval_rows: Annotated[
        int, typer.Option(help="Rows of it, evenly spaced, always the same.", rich_help_panel=_WATCH)
    ] = 64,
    eval_every: Annotated[
        int | None,
        typer.Option(help="Steps between evaluations. Default: a tenth of the run.", rich_help_panel=_WATCH),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="Steps between checkpoints. Default: by time.", rich_help_panel=_WATCH),
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="At most this long between checkpoints.", rich_help_panel=_WATCH)
    ] = 600.0,
    keep: Annotated[int, typer.Option(help="Checkpoints to retain.", rich_help_panel=_WATCH)] = 3,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="s3://, gs:// or az:// URL that the run is copied to, and comes back from.",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard too.", rich_help_panel=_WATCH)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on stdout.", rich_help_panel=_WATCH)
    ] = False,
) -> None:
    """Train a GPT-3 on a store. Killed? The same command goes on, with the same loss curve."""
    from headrace.training import train as run

    follows = os.environ.get("RANK", "0") != "0"
    try:
        with progress_bar("train", unit="steps", quiet=json or follows) as progress:
            summary = run(
                stores,
                out=out,
                model=model,
                init_from=init_from,
                embeddings=embeddings,
                seq_len=seq_len,
                batch_size=batch_size,
                steps=steps,
                max_seconds=max_seconds,
                seed=seed,
                lr=lr,
                warmup_steps=warmup_steps,
                decay_steps=decay_steps,
                floor=floor,
                weight_decay=weight_decay,
                clip=clip or None,
                accumulate=accumulate,
                ramp_from=ramp_from,
                ramp_steps=ramp_steps,
                dtype=dtype,
                banded=banded,
                loader_options={} if packing == "none" else {"packing": packing},
                dp=dp,
                tp=tp,
                pp=pp,
                shard=shard,
                pipeline=pipeline,
                microbatches=microbatches,
                recompute=recompute,
                compile=compile_,
                device=device,
                eval_stores=eval_store,
                eval_rows=eval_rows,
                eval_every=eval_every,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                keep=keep,
                mirror=mirror,
                tensorboard=tensorboard,
                progress=progress,
                warn=warn,
            )
    except HeadraceError as error:
        if not error.shared:
            raise
        # Rank 0 says it, once. torchrun ends all ranks when the first one ends: it gets the time to speak.
        time.sleep(1.0)
        raise typer.Exit(error.exit_code) from None
    if follows:
        return
    if json:
        print_json(summary)
        return
    rows = [
        ("steps", f"{count(summary.steps)} of {count(summary.total_steps)}"),
        ("parameters", count(summary.parameters)),
        ("tokens", count(summary.tokens)),
        ("loss", "-" if summary.loss is None else f"{summary.loss:.4f}"),
        ("tokens/s", count(summary.tokens_per_s)),
        ("MFU", "unknown hardware" if summary.mfu is None else f"{100 * summary.mfu:.1f} %"),
        ("native", summary.native),
        ("run", str(summary.out)),
    ]
    if summary.eval_loss is not None:
        rows.insert(4, ("eval loss", f"{summary.eval_loss:.4f}"))
    if summary.resumed_from == summary.steps:
        stdout.print(
            f"{summary.out}: all {count(summary.steps)} steps are done; nothing was left to do",
            soft_wrap=True,
        )
        return
    if summary.hit_rate is not None:
        rows.insert(2, ("embeddings", f"{100 * summary.hit_rate:.1f} % of the tokens found a vector"))
    if summary.resumed_from:
        rows.append(("went on from", f"step {count(summary.resumed_from)}"))
    if summary.stopped_by:
        rows.append(("stopped by", f"{summary.stopped_by}; the same command goes on"))
    stdout.print(facts("trained", rows))


def import_(
    *,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="HF_DIR",
            help="A Hugging Face directory in GPT-2's format: config, safetensors, tokenizer.",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option(help="The run directory to make.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Import a Hugging Face model (GPT-2 format) as a run: to generate, serve, export, or train further."""
    from headrace.training import import_model

    done = import_model(source, to)
    if json:
        print_json(done)
    else:
        stdout.print(f"{done.out}: {count(done.parameters)} parameters", soft_wrap=True)
