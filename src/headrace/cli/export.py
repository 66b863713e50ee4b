"""`headrace export`: a run directory -> a Hugging Face directory, or peft's adapter directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import count, print_json, progress_bar, stdout
from headrace.paths import local_path

EXAMPLES = """[bold]Examples[/bold]

headrace export run --out hf-model

headrace export tuned --adapter --out adapter
"""


def export(
    *,
    run: Annotated[
        str,
        typer.Argument(
            help="A run, or an adapter directory: a local path or an s3://, gs:// or az:// URL.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="The Hugging Face directory to write.", show_default=False)],
    adapter: Annotated[
        bool,
        typer.Option(
            "--adapter",
            help="Of a run that tunes by LoRA: write peft's adapter directory alone. Default: the model, with the "
            "low-rank matrices merged into its weights.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Export a run's model and tokenizer as a Hugging Face directory, or its LoRA adapter as peft's directory."""
    from headrace.model import export_adapter, fetch_model, load_model, pretrained_files, to_hf

    # Before the model is read: that may take minutes.
    target = local_path(out, name="export: out", cure="Export into a local directory, and copy it.")
    with progress_bar("load", unit="bytes", quiet=json, lazy=True) as progress:
        path = fetch_model(run, progress=progress)
        if adapter:
            directory, parameters = export_adapter(path, target)
            _print_adapter(directory, parameters, json=json)
            return
        model, tokenizer = load_model(path, progress=progress)
    to_hf(model, tokenizer, target, files_of=pretrained_files(path))
    if json:
        print_json({"model": target, "parameters": model.config.num_parameters})
    else:
        stdout.print(f"{target}: {count(model.config.num_parameters)} parameters", soft_wrap=True)


def _print_adapter(out: Path, parameters: int, *, json: bool) -> None:
    if json:
        print_json({"adapter": out, "parameters": parameters})
    else:
        stdout.print(f"{out}: an adapter of {count(parameters)} parameters", soft_wrap=True)
