"""`headrace demo`: Python's own sources, or files of text -> a model, its predictions, a report."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.console import print_json
from headrace.cli.options import with_options
from headrace.demo import DemoOptions, run_demo

EXAMPLES = """[bold]Examples[/bold]

headrace demo

headrace demo my-text.jsonl.gz notes.txt.gz --out my-demo

headrace demo crawl.parquet --text-field content

Interrupted? The same command continues.
"""


@with_options(options=DemoOptions)
def demo(
    *,
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Your own text; default: Python's own sources.", show_default=False),
    ] = None,
    out: Annotated[str, typer.Option(help="Directory for everything.")] = "headrace-demo",
    options: DemoOptions,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete an earlier demo in --out first.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Run the whole path: text, store, training, predictions, report; compare loading with a naive loader."""
    summary = run_demo(list(files or ()), out, options=options, restart=restart)
    if json:
        print_json(summary)
