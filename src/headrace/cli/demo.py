"""`headrace demo`: nothing but Python -> the main job from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import print_json

EXAMPLES = """[bold]Examples[/bold]

headrace demo

headrace demo my-text.jsonl.gz notes.txt.gz --out my-demo

headrace demo crawl.parquet --text-field content

Interrupted? The same command goes on where it stopped.
"""


def demo(
    *,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Your own text; default: Python's own.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("headrace-demo"),
    text_field: Annotated[
        str, typer.Option(help="Column or key of your files that holds the text.")
    ] = "text",
    seconds: Annotated[float, typer.Option(help="Of training.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of weights, order and sampling.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier demo in --out first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """The main job from end to end: text, store, training, predictions, report; beside the naive way."""
    from headrace.demo import run_demo

    summary = run_demo(list(files or ()), out, text_field=text_field, seconds=seconds, seed=seed, fresh=fresh)
    if json:
        print_json(summary)
