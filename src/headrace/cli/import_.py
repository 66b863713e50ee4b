"""`headrace import`: a Hugging Face directory -> a run directory."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.console import count, print_json, stdout

EXAMPLES = """[bold]Example[/bold]

headrace import hf-model --out run

headrace train store --out run --steps 1000 --lr 1e-5
"""


def import_(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="HF_DIR",
            help="A Hugging Face directory: config, safetensors, tokenizer; a local path, a URL, or "
            "hf://OWNER/NAME[@REVISION]. Architectures: gpt2, llama, mistral, qwen2, qwen3, gemma, gemma2, "
            "gemma3_text, olmo2.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="The run directory to make.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Import a Hugging Face model as a run: to generate, serve, export, or train further."""
    from headrace.training import import_model

    summary = import_model(source, out)
    if json:
        print_json(summary)
    else:
        stdout.print(f"{summary.out}: {count(summary.parameters)} parameters", soft_wrap=True)
