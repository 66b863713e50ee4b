"""`headrace ingest`: raw text -> a store of tokens; images or logs of interactions -> a store of samples."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated

import typer
from typing_extensions import Doc

from headrace.cli.console import count, facts, print_json, progress_bar, size, stdout
from headrace.cli.options import with_options
from headrace.errors import ConfigError
from headrace.ingestion import (
    Codec,
    Distribute,
    FieldOptions,
    FilterOptions,
    Interactions,
    JobOptions,
    OperatorOptions,
    Samples,
)
from headrace.types import Flag

if TYPE_CHECKING:
    from headrace.ingestion import IngestSummary

EXAMPLES = """[bold]Examples[/bold]

headrace ingest corpus/*.jsonl.gz --out store --tokenizer gpt2

headrace ingest notes/ --out store --tokenizer tokenizer.json --text-field body --workers 2

headrace ingest crawl/ --out store --tokenizer gpt2 --normalise --filter --dedup minhash

headrace ingest photos/ --samples --out store

headrace ingest clicks.csv --interactions --split last --part train --out store

headrace ingest pairs.jsonl --samples --layout pairs --tokenizer t5-small/ --out store

headrace ingest s3://bucket/raw/*.jsonl.zst --out s3://bucket/store --tokenizer byte --json

The same command continues after a crash; the store's bytes are the same.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Workers."""

    workers: Annotated[
        int | None, Doc("Processes; the store's bytes do not depend on it. Default: the cores.")
    ] = None
    distribute: Annotated[
        Distribute, Doc("Where workers run: processes here, or actors of a Ray cluster.")
    ] = "local"
    share: Annotated[
        str | None,
        Doc(
            "Do the units of task I of N only, as I/N from 0/N on, such as one of a Slurm array; finish/N makes the "
            "store of what all have done."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOptions:
    """Kind."""

    samples: Annotated[bool, Doc("Write rows of images, or, with --layout pairs, of tokens.")] = False
    interactions: Annotated[
        bool, Doc("The sources are logs of users' interactions with items: write rows of histories.")
    ] = False

    def __post_init__(self) -> None:
        """Refuse both.

        Raises:
            ConfigError: naming them.
        """
        if self.samples and self.interactions:
            raise ConfigError("--samples is for images and --interactions for logs; expected one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """Store."""

    codec: Annotated[
        Codec | None, Doc("Compression of the store's blocks. Default: zstd; none for images.")
    ] = None

    filter_documents: Annotated[
        bool, Flag("--filter"), Doc("Drop short, symbol-ridden and repetitive documents; mild limits.")
    ] = False
    append: Annotated[bool, Doc("Add files that the store does not have yet.")] = False
    restart: Annotated[bool, Doc("Delete what is at --out, and start over.")] = False


@with_options(
    fields=FieldOptions,
    operators=OperatorOptions,
    job=JobOptions,
    images=Samples,
    log=Interactions,
    kind=KindOptions,
    workers=WorkerOptions,
    write=WriteOptions,
)
def ingest(
    *,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files, globs, directories or URLs of text; with --samples of images, with --interactions of logs.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="The store to write: a directory or a URL.", show_default=False)],
    fields: FieldOptions,
    operators: OperatorOptions,
    job: JobOptions,
    images: Samples,
    log: Interactions,
    kind: KindOptions,
    workers: WorkerOptions,
    write: WriteOptions,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="byte, gpt2 or another of tiktoken's names, or a path: tokenizer.json, vocab.json, .model, .tiktoken, "
            "tekken.json, a directory with one of them."
        ),
    ] = "byte",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Turn raw text, compressed and anywhere, into a store. The same command continues after a crash."""
    # NumPy's threads cost 0.05 s of CPU at each start, and are not used.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from headrace.ingestion import ingest as run

    _check_used(images, is_used=kind.samples, flag="--samples")
    _check_used(log, is_used=kind.interactions, flag="--interactions")
    if write.filter_documents:
        operators = replace(operators, filters=FilterOptions())
    with progress_bar("ingest", unit="bytes", quiet=json) as progress:
        summary = run(
            sources,
            out,
            tokenizer=tokenizer,
            codec=write.codec,
            workers=workers.workers,
            distribute=workers.distribute,
            fields=fields,
            operators=operators,
            job=job,
            samples=images if kind.samples else None,
            interactions=log if kind.interactions else None,
            append=write.append,
            restart=write.restart,
            share=workers.share,
            progress=progress,
        )
    is_text = not (kind.samples or kind.interactions)
    if json:
        print_json(summary)
    else:
        stdout.print(facts("ingested", _rows(summary) if is_text else _sample_rows(summary)))


def _check_used(options: Samples | Interactions, *, is_used: bool, flag: str) -> None:
    """Refuse options of a kind of store that is not made.

    Raises:
        ConfigError: naming them.
    """
    names = [f.name for f in fields(options) if getattr(options, f.name) != f.default]
    if names and not is_used:
        raise ConfigError(
            f"{', '.join(names)}: only with {flag}, which was not given. Add {flag}, or leave them out"
        )


def _sample_rows(summary: IngestSummary) -> list[tuple[str, str]]:
    rows = [
        ("store", summary.out),
        ("rows", f"{count(summary.documents)} in {count(summary.num_shards)} shards"),
        *(
            [
                (
                    "tokens",
                    f"{count(summary.tokens)} of {summary.tokenizer or 'items'}",
                )
            ]
            if summary.tokens
            else []
        ),
        ("bytes", f"{size(summary.source_bytes)} of sources, now {size(summary.store_bytes)}"),
        ("time", f"{summary.wall_s:.1f} s with {summary.workers} workers"),
    ]
    rows += [("rejected", f"{count(n)} {reason}; see rejects.jsonl") for reason, n in summary.rejects.items()]
    rows += [("left out", f"{count(n)} {reason}") for reason, n in summary.dropped.items()]
    return rows + [("note", note) for note in summary.notes]


def _rows(summary: IngestSummary) -> list[tuple[str, str]]:
    engine = summary.tokenizer_engine
    rows = [
        ("store", summary.out),
        ("documents", count(summary.documents)),
        ("tokens", f"{count(summary.tokens)}, {summary.bytes_per_token:.2f} bytes of text each"),
        (
            "text",
            f"{size(summary.bytes_in)} from {size(summary.source_bytes)}, now {size(summary.store_bytes)}",
        ),
        ("speed", f"{size(summary.bytes_per_s)}/s with {summary.workers} workers in {summary.wall_s:.1f} s"),
        ("tokenizer", summary.tokenizer + (f" (engine {engine})" if engine not in ("", "byte") else "")),
        ("native", summary.native),
    ]
    busy = sum(summary.stages.values())
    if busy:
        shares = ", ".join(f"{name} {seconds / busy:.0%}" for name, seconds in summary.stages.items())
        rows.append(("time", f"{shares}; {summary.limiting_stage} limits"))
    if summary.given_tokens:
        learned = summary.tokens - summary.given_tokens
        rows.append(
            ("learned", f"{count(learned)} tokens, {learned / summary.tokens:.1%}; the others are given")
        )
    if summary.units_resumed:
        rows.append(
            ("continued", f"{count(summary.units_resumed)} of {count(summary.units)} units were done before")
        )
    rows += [("rejected", f"{count(n)} {reason}; see rejects.jsonl") for reason, n in summary.rejects.items()]
    rows += [("left out", f"{count(n)} {reason}") for reason, n in summary.dropped.items()]
    if summary.validation_documents:
        held_out = (
            f"{count(summary.validation_documents)} documents, {count(summary.validation_tokens)} tokens"
        )
        rows.append(("validation", held_out))
    return rows + [("note", note) for note in summary.notes]
