"""`headrace ingest`, `tokenizer train`, `inspect`: raw text -> a store, and a look at it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from headrace.cli.console import count, facts, plain, print_json, progress_bar, size, stdout, warn

INGEST_EXAMPLES = """[bold]Examples[/bold]

headrace ingest corpus/*.jsonl.gz --out store --tokenizer gpt2

headrace ingest notes/ --out store --tokenizer tokenizer.json --text-field body --workers 2

headrace ingest crawl/ --out store --tokenizer gpt2 --normalise --filter --dedup minhash

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
    sources: Annotated[
        list[str], typer.Argument(help="Files, globs, directories or URLs of text.", show_default=False)
    ],
    out: Annotated[str, typer.Option(help="The store to write: a directory or a URL.", show_default=False)],
    tokenizer: Annotated[
        str,
        typer.Option(
            help="byte | gpt2 | cl100k_base | o200k_base | a tokenizer.json, directory or .model file."
        ),
    ] = "byte",
    codec: Annotated[
        Literal["none", "lz4", "zstd"], typer.Option(help="How blocks are stored: none | lz4 | zstd.")
    ] = "zstd",
    workers: Annotated[
        int | None, typer.Option(help="Processes; the bytes do not depend on it. Default: cores.")
    ] = None,
    distribute: Annotated[
        Literal["local", "ray"], typer.Option(help="Where units of work run: local | ray.")
    ] = "local",
    text_field: Annotated[str, typer.Option(help="The column or JSON field that holds the text.")] = "text",
    text_mode: Annotated[
        Literal["auto", "file", "line", "block"], typer.Option(help="What a document of a text file is.")
    ] = "auto",
    keep: Annotated[list[str] | None, typer.Option(help="Another field to keep; may be given again.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad document.")] = False,
    max_reject_share: Annotated[float, typer.Option(help="Fail above this share of bad documents.")] = 0.05,
    max_document_bytes: Annotated[int, typer.Option(help="Longer documents are rejected.")] = 16 << 20,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Bring text to NFC, and line ends to a newline.")
    ] = False,
    filter_documents: Annotated[
        bool,
        typer.Option("--filter", help="Drop short, symbol-ridden and repetitive documents; mild limits."),
    ] = False,
    sample: Annotated[float, typer.Option(help="Share of the documents to take.")] = 1.0,
    dedup: Annotated[
        Literal["none", "exact", "minhash"],
        typer.Option(help="Drop documents that stood before: none | exact | minhash (near ones)."),
    ] = "none",
    validation_share: Annotated[
        float, typer.Option(help="Share of the documents that goes to --validation-out.")
    ] = 0.0,
    validation_out: Annotated[
        str | None, typer.Option(help="The store for that share.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and the validation share.")] = 0,
    append: Annotated[bool, typer.Option("--append", help="Add files that the store has not seen.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what is at --out; start over.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Turn raw text, compressed and anywhere, into a store. Run again after a crash: it goes on."""
    # NumPy's threads cost 0.05 s of CPU at each start, and do nothing here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from headrace.ingestion import ingest as run
    from headrace.ingestion.operators.filters import Filters

    with progress_bar("ingest", unit="bytes", quiet=json) as progress:
        summary = run(
            sources,
            out,
            tokenizer=tokenizer,
            codec=codec,
            workers=workers,
            distribute=distribute,
            text_field=text_field,
            text_mode=text_mode,
            keep=tuple(keep or ()),
            strict=strict,
            max_reject_share=max_reject_share,
            max_document_bytes=max_document_bytes,
            normalise=normalise,
            filters=Filters() if filter_documents else None,
            sample=sample,
            dedup=None if dedup == "none" else dedup,
            validation_share=validation_share,
            validation_out=validation_out,
            seed=seed,
            append=append,
            restart=restart,
            progress=progress,
        )
    if json:
        print_json(summary)
        return
    rows = [
        ("store", summary.out),
        ("documents", count(summary.documents)),
        ("tokens", f"{count(summary.tokens)}, {summary.bytes_per_token:.2f} bytes of text each"),
        (
            "text",
            f"{size(summary.bytes_in)} from {size(summary.source_bytes)}, now {size(summary.store_bytes)}",
        ),
        ("speed", f"{size(summary.bytes_per_s)}/s with {summary.workers} workers in {summary.wall_s:.1f} s"),
        ("tokenizer", " by ".join(filter(None, (summary.tokenizer, summary.tokenizer_engine)))),
        ("native", summary.native),
    ]
    busy = sum(summary.stages.values())
    if busy:
        shares = ", ".join(f"{name} {seconds / busy:.0%}" for name, seconds in summary.stages.items())
        rows.append(("time", f"{shares}; {summary.limiting_stage} limits"))
    if summary.units_resumed:
        rows.append(
            ("went on", f"{count(summary.units_resumed)} of {count(summary.units)} units were done before")
        )
    rows += [("rejected", f"{count(n)} {reason}; see rejects.jsonl") for reason, n in summary.rejects.items()]
    rows += [("left out", f"{count(n)} {reason}") for reason, n in summary.dropped.items()]
    if summary.validation_documents:
        held = f"{count(summary.validation_documents)} documents, {count(summary.validation_tokens)} tokens"
        rows.append(("validation", held))
    rows += [("note", note) for note in summary.notes]
    stdout.print(facts("ingested", rows))


def tokenizer_train(
    *,
    sources: Annotated[list[str], typer.Argument(help="Files of text to learn from.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(help="Ids in all, the end-of-document id included.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.", show_default=False)],
    text_field: Annotated[str, typer.Option(help="The column or JSON field that holds the text.")] = "text",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train a byte-level BPE vocabulary on your own text."""
    from headrace.ingestion.texts import read_texts
    from headrace.tokens import load_tokenizer, train_tokenizer

    with progress_bar("tokenizer train", unit="bytes", quiet=json) as progress:
        path = train_tokenizer(
            read_texts(sources, text_field=text_field), vocab_size=vocab_size, out=out, progress=progress
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
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Look into a store: documents, tokens, bytes per token, shards, and rows as text."""
    from headrace.store import Store, inspect_store, verify_store

    with Store.open(store, tokenizer=tokenizer) as opened:
        if verify:
            with progress_bar("verify", unit="bytes", quiet=json) as progress:
                verify_store(opened, progress=progress)
            verified = "every byte" if opened.has_checksums else "every id (Megatron files have no checksums)"
        report = inspect_store(opened, samples=samples)
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
    for sample in report.samples:
        stdout.print(f"\nrow {count(sample.row)} of length {sample.seq_len}:", style="dim")
        stdout.print(sample.text, markup=False, highlight=False)
