"""`headrace generate`: prompts and a model -> stored predictions."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, stdout
from headrace.cli.options import MODEL_HELP, with_options
from headrace.generation import (
    EngineOptions,
    OutputOptions,
    PrefixCacheOptions,
    PromptOptions,
    SamplingOptions,
)

EXAMPLES = """[bold]Examples[/bold]

headrace generate --model run --prompts prompts.jsonl --out predictions --max-new-tokens 64

headrace generate --model run --prompts prompts.txt.gz --out predictions --temperature 0.8 --num-samples 4

headrace generate --model run --prompts prompts.parquet --out s3://bucket/predictions --workers 4

headrace generate --model run --prompts prompts.jsonl --out predictions --prefix-cache ~/.cache/prefixes

headrace generate --model hf://HuggingFaceTB/SmolLM2-135M --prompts prompts.txt --out predictions

The same command resumes after a crash; every prediction is stored once.
"""


@with_options(
    sampling=SamplingOptions,
    prompt_options=PromptOptions,
    output=OutputOptions,
    engine=EngineOptions,
    prefix_cache=PrefixCacheOptions,
)
def generate(
    *,
    model: Annotated[str, typer.Option(help=MODEL_HELP, show_default=False)],
    prompts: Annotated[
        str, typer.Option(help=".txt, .jsonl, .csv or .parquet, plain or compressed.", show_default=False)
    ],
    out: Annotated[
        str,
        typer.Option(
            help="A directory for the predictions, or an s3://, gs:// or az:// URL.", show_default=False
        ),
    ],
    sampling: SamplingOptions,
    prompt_options: PromptOptions,
    output: OutputOptions,
    engine: EngineOptions,
    prefix_cache: PrefixCacheOptions,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Generate for every prompt and store each prediction exactly once."""
    from headrace.generation import generate as run

    with (
        progress_bar("load", unit="bytes", quiet=json, lazy=True) as load_progress,
        progress_bar("generate", unit="predictions", quiet=json, lazy=True) as progress,
    ):
        summary = run(
            model,
            prompts,
            out,
            sampling=sampling,
            engine=dataclasses.replace(engine, prefix_cache=prefix_cache),
            prompt_options=prompt_options,
            output=output,
            progress=progress,
            load_progress=load_progress,
        )
    if json:
        print_json(summary)
        return
    rows = [
        ("predictions", f"{count(summary.num_predictions)} stored, {count(summary.num_new)} of them new"),
        ("errors", count(summary.num_errors)),
        ("tokens", count(summary.completion_tokens)),
        (
            "prompt tokens",
            f"{count(summary.prompt_tokens)}, {count(summary.cached_tokens)} of them from the prefix cache",
        ),
        ("tokens/s", count(summary.tokens_per_s)),
        ("native", summary.native),
        ("out", summary.out),
    ]
    stdout.print(facts("generated", rows))
