"""`headrace report`: a run directory -> report.html and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import print_json, stdout, warnings_logged

EXAMPLES = """[bold]Example[/bold]

headrace report run
"""


def report(
    *,
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON on stdout.")] = False,
) -> None:
    """Write report.html and plots: loss, tokens/s, and where the time went."""
    from headrace.profile import report as write

    with warnings_logged():
        page = write(run)
    if json:
        print_json({"report": page, "plots": sorted((run / "plots").glob("*.svg"))})
    else:
        stdout.print(f"report: {page}\nplots:  {run / 'plots'}", soft_wrap=True)
