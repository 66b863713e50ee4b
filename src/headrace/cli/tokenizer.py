"""`headrace tokenizer train`: raw text -> a tokenizer.json."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.console import count, print_json, progress_bar, stdout, warn

TRAIN_EXAMPLES = """[bold]Example[/bold]

headrace tokenizer train corpus/*.jsonl.gz --vocab-size 32000 --out tokenizer.json
"""


def train(
    *,
    sources: Annotated[list[str], typer.Argument(help="Files of text to learn from.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, the end-of-document id included.")],
    out: Annotated[str, typer.Option(help="The tokenizer.json to write.", show_default=False)],
    text_field: Annotated[str, typer.Option(help="The column or JSON field with the text.")] = "text",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train a byte-level BPE vocabulary on your own text."""
    from headrace.ingestion import FieldOptions, read_texts
    from headrace.tokens import load_tokenizer, train_tokenizer

    with progress_bar("tokenizer train", unit="bytes", quiet=json) as progress:
        path = train_tokenizer(
            read_texts(sources, fields=FieldOptions(text_field=text_field)),
            vocab_size=vocab_size,
            out=out,
            progress=progress,
        )
    tokenizer = load_tokenizer(path)
    if json:
        print_json({"path": path, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint})
        return
    if tokenizer.vocab_size < vocab_size:
        warn(
            f"the text gives {count(tokenizer.vocab_size)} ids, fewer than the {count(vocab_size)} asked for"
        )
    stdout.print(f"{path}: {count(tokenizer.vocab_size)} ids", soft_wrap=True, highlight=False)
