"""`headrace export`: a run directory -> a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import count, print_json, progress_bar, stdout
from headrace.paths import local_path

EXAMPLES = """[bold]Example[/bold]

headrace export run --out hf-model
"""


def export(
    *,
    run: Annotated[
        str, typer.Argument(help="A run: a local path or an s3://, gs:// or az:// URL.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The Hugging Face directory to write.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Export a run's model and tokenizer as a Hugging Face directory, in the format of its architecture."""
    from headrace.model import fetch_model, load_model, pretrained_files, to_hf

    # Before the model is read: that may take minutes.
    out = local_path(out, name="export: out", cure="Export into a local directory, and copy it.")
    with progress_bar("load", unit="bytes", quiet=json, lazy=True) as progress:
        path = fetch_model(run, progress=progress)
        model, tokenizer = load_model(path, progress=progress)
    to_hf(model, tokenizer, out, files_of=pretrained_files(path))
    if json:
        print_json({"model": out, "parameters": model.config.num_parameters})
    else:
        stdout.print(f"{out}: {count(model.config.num_parameters)} parameters", soft_wrap=True)
