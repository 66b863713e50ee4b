"""`headrace ingest`, `tokenizer train`, `inspect`: raw text in, a store out, and a look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace.cli.console import count, facts, print_json, progress_bar, size, stderr, stdout

INGEST_EXAMPLES = """[bold]Examples[/bold]

headrace ingest corpus/*.jsonl.gz --out store --tokenizer gpt2

headrace ingest notes/ --out store --tokenizer tokenizer.json --text-field body --workers 2

headrace ingest s3://bucket/raw/*.jsonl.zst --out s3://bucket/store --tokenizer byte --json
"""
TOKENIZER_TRAIN_EXAMPLES = """[bold]Example[/bold]

headrace tokenizer train corpus/*.jsonl.gz --vocab-size 32000 --out tokenizer.json
"""
INSPECT_EXAMPLES = """[bold]Examples[/bold]

headrace inspect store

headrace inspect store --verify --json
"""


def ingest(
    *,
    sources: Annotated[list[str], typer.Argument(help="Files, globs, directories or URLs of text.", show_default=False)],
    out: Annotated[str, typer.Option(help="The store to write: a directory or a URL.", show_default=False)],
    tokenizer: Annotated[
        str, typer.Option(help="byte | gpt2 | cl100k_base | o200k_base | a tokenizer.json, directory or .model file.")
    ] = "byte",
    codec: Annotated[Literal["none", "lz4", "zstd"], typer.Option(help="How blocks are stored: none | lz4 | zstd.")] = "zstd",
    workers: Annotated[int | None, typer.Option(help="Processes; the bytes do not depend on it. Default: cores.")] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Where units of work run: local | ray.")] = "local",
    text_field: Annotated[str, typer.Option(help="The column or JSON field that holds the text.")] = "text",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Turn raw text, compressed and anywhere, into a store. Run again after a crash: it goes on."""
    from headrace.ingest import ingest as run

    with progress_bar("ingest", unit="bytes", quiet=json) as progress:
        summary = run(
            sources,
            out,
            tokenizer=tokenizer,
            codec=codec,
            workers=workers,
            engine=engine,
            text_field=text_field,
            progress=progress,
        )
    if json:
        print_json(summary)


def tokenizer_train(
    *,
    sources: Annotated[list[str], typer.Argument(help="Files of text to learn from.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(help="Ids in all, the end-of-document id included.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.", show_default=False)],
    text_field: Annotated[str, typer.Option(help="The column or JSON field that holds the text.")] = "text",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train a byte-level BPE vocabulary on your own text."""


def inspect(
    *,
    store: Annotated[str, typer.Argument(help="The store: a directory or a URL.", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and check every checksum.")] = False,
    samples: Annotated[int, typer.Option(help="Rows to decode and show.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Look into a store: documents, tokens, bytes per token, shards, and rows as text."""
