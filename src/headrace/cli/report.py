"""`headrace report`: a run directory -> report.html and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import print_json, stdout, warnings_logged
from headrace.storage import open_blob

EXAMPLES = """[bold]Example[/bold]

headrace report run
"""


def report(
    *,
    run: Annotated[str, typer.Argument(help="A run directory, or its URL.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON on stdout.")] = False,
) -> None:
    """Write report.html and plots: loss, tokens/s, and where the time went."""
    from headrace.profile import report as write

    with warnings_logged():
        page = write(run)
    if json:
        plots = sorted((page.parent / "plots").glob("*.svg")) if isinstance(page, Path) else _plots(page)
        print_json({"report": page, "plots": plots})
    else:
        stdout.print(f"report: {page}\nplots:  {str(page).rpartition('/')[0]}/plots", soft_wrap=True)


def _plots(page: str) -> list[str]:
    """URLs of the pictures beside a page."""
    url = page.rpartition("/")[0]
    return [f"{url}/{name}" for name in open_blob(url).list("plots/")]
