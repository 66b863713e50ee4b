"""`headrace generate`, `report`, `export`: a run -> predictions, a page, a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, share_cores, stdout

GENERATE_EXAMPLES = """[bold]Examples[/bold]

headrace generate --model run --prompts prompts.jsonl --out predictions --max-new-tokens 64

headrace generate --model run --prompts prompts.txt.gz --out predictions --temperature 0.8 --num-samples 4

headrace generate --model run --prompts prompts.parquet --out s3://bucket/predictions --workers 4

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
    model: Annotated[
        str, typer.Option(help="A run directory or a Hugging Face directory.", show_default=False)
    ],
    prompts: Annotated[
        str, typer.Option(help=".txt, .jsonl, .csv or .parquet, plain or compressed.", show_default=False)
    ],
    out: Annotated[
        str,
        typer.Option(
            help="A directory for the predictions, or an s3://, gs:// or az:// URL.", show_default=False
        ),
    ],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate at most for each prompt.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the likeliest tokens of this mass.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Leave out tokens less likely than this share of the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Divides logits of tokens in prompt or output; 1 is none.")
    ] = 1.0,
    presence_penalty: Annotated[
        float, typer.Option(help="Taken off the logit of each token in the output; 0 is none.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option(help="The same, for each time it is there; 0 is none.")
    ] = 0.0,
    num_samples: Annotated[int, typer.Option(help="Samples for each prompt.")] = 1,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends a sample; may be given again.")
    ] = None,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Store each token's log-probability.")] = False,
    prompt_logprobs: Annotated[
        bool, typer.Option("--prompt-logprobs", help="Store that of each token of the prompt too.")
    ] = False,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after the end-of-document id.")
    ] = False,
    engine: Annotated[
        Literal["native", "transformers", "vllm"],
        typer.Option(help="What runs the model: native | transformers | vllm."),
    ] = "native",
    form: Annotated[
        Literal["parquet", "jsonl"], typer.Option(help="Of the parts: parquet | jsonl.")
    ] = "parquet",
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Make error rows again.")] = False,
    seed: Annotated[
        int, typer.Option(help="With the prompt's id and the sample's index it fixes each sample.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows that each worker generates at once.")] = 32,
    dtype: Annotated[
        str, typer.Option(help="auto | float32 | bfloat16 | float16; auto is as stored, float32 on a CPU.")
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="auto | cpu | cuda; auto is a GPU where there is one.")
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Copies of the model that share the prompts.")] = 1,
    distribute: Annotated[
        Literal["local", "ray"], typer.Option(help="Where workers run: local processes | ray actors.")
    ] = "local",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Generate for every prompt and store each prediction exactly once."""
    share_cores()
    from headrace.generation import generate as run

    with progress_bar("generate", unit="predictions", quiet=json) as progress:
        summary = run(
            model=model,
            prompts=prompts,
            out=out,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            num_samples=num_samples,
            stop=tuple(stop or ()),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            ignore_eos=ignore_eos,
            engine=engine,
            form=form,
            retry_errors=retry_errors,
            seed=seed,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            workers=workers,
            distribute=distribute,
            progress=progress,
        )
    if json:
        print_json(summary)
        return
    rows = [
        ("predictions", f"{count(summary.num_predictions)} stored, {count(summary.num_new)} of them new"),
        ("errors", count(summary.num_errors)),
        ("tokens", count(summary.completion_tokens)),
        ("tokens/s", count(summary.tokens_per_s)),
        ("out", summary.out),
    ]
    stdout.print(facts("generated", rows))


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
