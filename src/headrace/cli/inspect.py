"""`headrace inspect`: a store of either kind -> its counts, shards, and rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from headrace.cli.console import count, facts, plain, print_json, progress_bar, size, stderr, stdout
from headrace.cli.inspect_samples import inspect_rows

if TYPE_CHECKING:
    from headrace.store import StoreReport

EXAMPLES = """[bold]Examples[/bold]

headrace inspect store

headrace inspect store --verify --json

headrace inspect photos --samples 24 --html photos.html
"""


def inspect(
    *,
    store: Annotated[str, typer.Argument(help="The store: a directory or a URL.", show_default=False)],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and check every checksum.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Rows to decode and show.")] = 3,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer of Megatron files, which have none: a name or a path.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write one HTML page, too: pictures with their boxes, conversations as turns, learned tokens marked.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Show a store: documents, tokens, shards and rows as text; of a store of samples its columns and rows."""
    from headrace.ingestion import verify_job_files
    from headrace.store import Store, inspect_store, is_sample_store, verify_store

    if is_sample_store(store):
        inspect_rows(store, verify=verify, samples=samples, html=html, json=json)
        return
    with Store.open(store, tokenizer=tokenizer) as opened:
        if verify:
            with progress_bar("verify", unit="bytes", quiet=json) as progress:
                verify_store(opened, progress=progress)
                verify_job_files(opened)
            verified = "every byte" if opened.has_checksums else "every id (Megatron files have no checksums)"
        report = inspect_store(opened, samples=samples)
    if html is not None:
        from headrace.profile import write_tokens_page

        write_tokens_page(html, report)
        stderr.print(f"page: {html}", soft_wrap=True, highlight=False)
    if json:
        print_json(plain(report) | {"verified": verify})
        return
    rows = [
        ("documents", f"{count(report.documents)}, {report.tokens_per_document:,.1f} tokens each"),
        ("tokens", f"{count(report.tokens)} as {report.dtype}"),
        (
            "stored",
            f"{size(report.nbytes)}, {report.bytes_per_token:.2f} bytes a token, codec {report.codec}",
        ),
        (
            "tokenizer",
            f"{report.tokenizer or 'none (give one with --tokenizer)'}, {count(report.vocab_size)} ids",
        ),
        *_learned_row(report),
        ("fingerprint", report.fingerprint),
        ("snapshot", str(report.snapshot)),
        ("native", report.native),
    ]
    if verify:
        rows.append(("verified", verified))
    stdout.print(facts(report.url, rows))
    table = Table("shard", "tokens", "documents", "bytes", "codec", box=None, padding=(0, 2, 0, 0))
    for shard in report.shards:
        table.add_row(
            shard.name, count(shard.tokens), count(shard.documents), size(shard.nbytes), shard.codec
        )
    stdout.print(table)
    if report.num_shards > len(report.shards):
        stdout.print(f"... and {count(report.num_shards - len(report.shards))} more shards")
    _print_texts(report)


def _learned_row(report: StoreReport) -> list[tuple[str, str]]:
    """How many tokens are learned, where some are given."""
    if not report.given_tokens:
        return []
    learned = report.tokens - report.given_tokens
    return [("learned", f"{count(learned)} tokens, {learned / report.tokens:.1%}; the others are given")]


def _print_texts(report: StoreReport) -> None:
    """Documents with what is learned in them, and rows as text."""
    for document in report.documents_shown:
        stdout.print(
            f"\ndocument {count(document.document)} of shard {document.shard}, learned in [[ ]]:", style="dim"
        )
        for kind, text in document.parts:
            if kind == "learned":
                stdout.print(f"[[{text}]]", style="bold green", markup=False, highlight=False, end="")
            else:
                stdout.print(text, markup=False, highlight=False, end="")
        stdout.print(" ..." if document.is_cut else "")
    for sample in report.samples:
        stdout.print(f"\nrow {count(sample.row)} of length {sample.seq_len}:", style="dim")
        stdout.print(sample.text, markup=False, highlight=False)
