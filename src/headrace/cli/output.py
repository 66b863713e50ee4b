"""`headrace generate`, `report`, `export`: a run in; predictions, a page, or a Hugging Face directory out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, stdout

GENERATE_EXAMPLES = """[bold]Examples[/bold]

headrace generate --model run --prompts prompts.jsonl --out predictions --max-new-tokens 64

headrace generate --model run --prompts prompts.txt.gz --out predictions --temperature 0.8 --top-p 0.95 --num-samples 4

The same command again after a crash finishes what is missing; every prediction is stored once.
"""
REPORT_EXAMPLES = """[bold]Example[/bold]

headrace report run
"""
EXPORT_EXAMPLES = """[bold]Example[/bold]

headrace export run --to hf-model
"""


def generate(
    *,
    model: Annotated[str, typer.Option(help="A run directory or a Hugging Face directory.", show_default=False)],
    prompts: Annotated[
        str, typer.Option(help=".txt, .jsonl, .csv or .parquet, plain or compressed.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The directory of predictions.", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate at most for each prompt.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this mass.")] = None,
    num_samples: Annotated[int, typer.Option(help="Samples for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="With the prompt's id and the sample's index it fixes each sample.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows generated at once.")] = 32,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Generate for every prompt and store each prediction exactly once."""
    from headrace.generate import generate as run

    with progress_bar("generate", unit="predictions", quiet=json) as progress:
        summary = run(
            model=model,
            prompts=prompts,
            out=out,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            num_samples=num_samples,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    if json:
        print_json(summary)


def report(
    *,
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON on stdout.")] = False,
) -> None:
    """Write report.html and plots: loss, tokens/s, and where the time went."""
    from headrace.profile import report as write

    page = write(run)
    if json:
        print_json({"report": page, "plots": sorted((run / "plots").glob("*.png"))})
    else:
        stdout.print(f"report: {page}\nplots:  {run / 'plots'}", soft_wrap=True)


def export(
    *,
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The Hugging Face directory to write.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Export a run's model and tokenizer as a Hugging Face directory (GPT-2 format)."""
    from headrace.model import load_model, to_hf

    model, tokenizer = load_model(run)
    to_hf(model, tokenizer, to)
    if json:
        print_json({"model": to, "parameters": model.config.num_parameters})
    else:
        stdout.print(f"{to}: {count(model.config.num_parameters)} parameters", soft_wrap=True)
