"""`headrace train`: a store -> a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, stdout, warn

TRAIN_EXAMPLES = """[bold]Examples[/bold]

headrace train store --model tiny --steps 500 --out run

headrace train store --model gpt3-125m --seq-len 2048 --batch-size 256 --steps 1000 --out run

The same command again goes on where a killed run stopped.
"""


def train(
    *,
    stores: Annotated[
        list[str], typer.Argument(help="One store, or several mixed by their sizes.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The run directory.", show_default=False)],
    model: Annotated[str, typer.Option(help="tiny | gpt3-125m | gpt3-350m | ... | gpt3-175b.")] = "tiny",
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a row. Default: the size's context.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Global rows of a step. Default: the paper's tokens.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Instead of steps: as many as fit, measured first.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate. Default: the paper's for the size.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    accumulate: Annotated[
        int, typer.Option(help="Pieces that a step's rows run in, one after the other.")
    ] = 1,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of matrix products: auto | float32 | bfloat16."),
    ] = "auto",
    banded: Annotated[
        bool, typer.Option("--banded", help="Alternate dense and locally banded attention.")
    ] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile the model.")] = False,
    eval_store: Annotated[
        str | None, typer.Option(help="Held-out store; its loss is logged as eval_loss.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints. Default: by time.")
    ] = None,
    keep: Annotated[int, typer.Option(help="Checkpoints to retain.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Train a GPT-3 on a store. Killed? The same command goes on, with the same loss curve."""
    from headrace.store import Store
    from headrace.train import train as run

    if len(stores) == 1:
        source: object = stores[0]
    else:
        opened = [Store.open(url) for url in stores]
        source = {store: store.num_tokens for store in opened}
    with progress_bar("train", unit="steps", quiet=json) as progress:
        summary = run(
            source,
            out=out,
            model=model,
            seq_len=seq_len,
            batch_size=batch_size,
            steps=steps,
            max_seconds=max_seconds,
            lr=lr,
            seed=seed,
            accumulate=accumulate,
            dtype=dtype,
            banded=banded,
            compile=compile_,
            eval_stores=eval_store,
            checkpoint_every=checkpoint_every,
            keep=keep,
            progress=progress,
            warn=warn,
        )
    if json:
        print_json(summary)
        return
    rows = [
        ("steps", f"{count(summary.steps)} of {count(summary.total_steps)}"),
        ("parameters", count(summary.parameters)),
        ("tokens", count(summary.tokens)),
        ("loss", "-" if summary.loss is None else f"{summary.loss:.4f}"),
        ("tokens/s", count(summary.tokens_per_s)),
        ("run", str(summary.out)),
    ]
    if summary.eval_loss is not None:
        rows.insert(4, ("eval loss", f"{summary.eval_loss:.4f}"))
    if summary.resumed_from:
        rows.append(("went on from", f"step {count(summary.resumed_from)}"))
    if summary.stopped_by:
        rows.append(("stopped by", f"{summary.stopped_by}; the same command goes on"))
    stdout.print(facts("trained", rows))
