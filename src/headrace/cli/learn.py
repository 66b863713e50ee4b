"""`headrace train`: a store in, a run directory out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, stdout

TRAIN_EXAMPLES = """[bold]Examples[/bold]

headrace train store --model tiny --steps 500 --out run

headrace train store --model gpt3-125m --seq-len 2048 --batch-size 256 --steps 1000 --out run --dtype bf16

The same command again goes on where a killed run stopped.
"""


def train(
    *,
    stores: Annotated[list[str], typer.Argument(help="One store, or several to mix.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The run directory.", show_default=False)],
    steps: Annotated[int, typer.Option(help="Optimizer steps in all.", show_default=False)],
    model: Annotated[str, typer.Option(help="tiny | gpt3-125m | gpt3-350m | ... | gpt3-175b.")] = "tiny",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Train a GPT-3 on a store. Killed? The same command goes on, with the same loss curve."""
