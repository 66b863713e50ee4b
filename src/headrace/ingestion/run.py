"""Files, globs, directories, URLs -> a store: the function `ingest`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import TypedDict, Unpack

from headrace.errors import ConfigError
from headrace.ingestion.fork_server import start_fork_server
from headrace.ingestion.interactions.options import Interactions
from headrace.ingestion.options import (
    Codec,
    Distribute,
    FieldOptions,
    JobOptions,
    OperatorOptions,
    check_choice,
)
from headrace.ingestion.read.sources import SourceFile, find_sources, has_pages
from headrace.ingestion.samples.options import Samples
from headrace.platform import available_cores

if TYPE_CHECKING:
    from headrace.ingestion.job.job import IngestJob
    from headrace.ingestion.job.progress import ProgressCallback
    from headrace.ingestion.job.summary import IngestSummary
    from headrace.storage import Blob
    from headrace.tokens import Tokenizer

BYTES_PER_WORKER = 16 << 20
"""Bytes of sources for which a process is started; only the default number of workers depends on it."""


_OPTIONS_OF_PAIRS = (
    "format", "record", "names", "template", "csv_delimiter", "csv_header", "max_document_bytes",
    "skip_damaged", "shard_text_bytes",
)  # fmt: skip
"""Options of documents that rows of pairs have as well."""


class IngestControl(TypedDict, total=False):
    """What is done with a store that is there, which share of the job is done, and who is told of the progress."""

    append: bool
    restart: bool
    progress: ProgressCallback | None
    share: str | None


def ingest(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer = "byte",
    codec: Codec | None = None,
    workers: int | None = None,
    distribute: Distribute = "local",
    fields: FieldOptions = FieldOptions(),  # noqa: B008  # frozen
    operators: OperatorOptions = OperatorOptions(),  # noqa: B008
    job: JobOptions = JobOptions(),  # noqa: B008
    samples: Samples | None = None,
    interactions: Interactions | None = None,
    **control: Unpack[IngestControl],
) -> IngestSummary:
    """Turn raw text into a store. A call that was interrupted at any moment is continued by the same call.

    The store's bytes depend on sources, options and tokenizer alone. Without a manifest, written last, it is no store.

    Args:
        sources: files, globs, directories, URLs (s3, gs, az, http(s)) of .txt, .jsonl, .json, .csv, .tsv, .parquet,
            Arrow, Feather, datasets directories, WebDataset tars, web archives (.warc, .wet); plain or compressed.
        out: the store: a directory or a URL.
        tokenizer: byte, gpt2 or another of tiktoken's names, a path (see `load_tokenizer`), or a tokenizer.
        codec: compression of the store's blocks; None takes zstd, and none for images, which are compressed already.
        workers: processes; None takes the number of cores, and fewer for small sources.
        distribute: where units of work run: processes of this machine, or actors of a Ray cluster.
        fields: what a document is, which field is its text, and which others are kept.
        operators: what is done to documents before they are tokenized.
        job: when the job stops, and how its work is divided.
        samples: the store has rows (`SampleStore`): the sources are images with labels, boxes or masks, or, with
            `Samples(layout="pairs")`, records of two texts. Operators are refused, and for images tokenizer and fields.
        interactions: the sources are logs of users' interactions with items, and the store has rows of them, or
            documents of item tokens; options of text are refused, and so is `append`.
        control: `append=True` adds files that the store does not have yet; `restart=True` deletes a half-done job or a
            store at `out`, and starts over; `progress` is called with (source bytes done, in all, a note);
            `share="3/16"` does the units of task 3 of 16, and `share="finish/16"` makes the store of all of them.

    Returns:
        Counts of the whole job, and where the time went.

    Raises:
        SourceError: a source is missing, truncated, not what its name says, or there are no documents.
        DocumentError: strict and a document is bad, or too many are.
        TokenizerError: the tokenizer cannot be found or trusted.
        ConfigError: an option is invalid, or `out` is not empty and no store.
        ResumeError: the half-done job at `out` has other sources or options.
        SpaceError: the device is full; run the same command again when there is space.
    """
    if unknown := control.keys() - IngestControl.__annotations__.keys():
        raise TypeError(f"ingest() got an unexpected keyword argument {min(unknown)!r}")
    if samples is not None and interactions is not None:
        raise ConfigError("ingest: samples are images and interactions are a log; expected one of them")
    rows = samples if interactions is None else interactions
    if rows is not None:
        return _ingest_rows(
            sources,
            out,
            rows,
            tokenizer=tokenizer,
            codec=codec,
            workers=workers,
            distribute=distribute,
            fields=fields,
            operators=operators,
            job=job,
            control=control,
        )
    return _ingest_text(
        sources,
        out,
        tokenizer=tokenizer,
        codec=codec or "zstd",
        workers=workers,
        distribute=distribute,
        fields=fields,
        operators=operators,
        job=job,
        control=control,
    )


def _ingest_text(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    codec: Codec,
    workers: int | None,
    distribute: Distribute,
    fields: FieldOptions,
    operators: OperatorOptions,
    job: JobOptions,
    control: IngestControl,
) -> IngestSummary:
    """See `ingest`."""
    append, restart = control.get("append", False), control.get("restart", False)
    started = time.perf_counter()
    _check(out=out, codec=codec, workers=workers, distribute=distribute, append=append, restart=restart)
    share = None
    if (text := control.get("share")) is not None:
        from headrace.ingestion.units.share import Share

        share = Share.parse(text)
    if share is not None and restart:
        raise ConfigError(
            f"restart would delete what other shares have done. Delete {out} first, or leave share out"
        )
    notes: list[str] = []
    patterns = [sources] if isinstance(sources, str | os.PathLike) else sources
    files = find_sources(patterns, format=fields.format, notes=notes, skip_damaged=job.skip_damaged)
    # Other processes do not see what is in this process's memory.
    workers = 1 if str(out).startswith("memory://") else workers or default_workers(files)
    early = workers > 1 and distribute == "local" and operators.dedup == "none"
    early = early and (share is None or share.index is not None)
    name = os.fspath(tokenizer) if isinstance(tokenizer, str | os.PathLike) else None
    with start_fork_server(name) if early else nullcontext() as server:
        # NumPy, the store, the tokenizers: 0.15 s, while the fork server loads them as well.
        from headrace.ingestion.distribute import Execution
        from headrace.ingestion.job.destination import open_destination
        from headrace.ingestion.pipeline import IngestRunner
        from headrace.tokens import load_tokenizer

        # Not checked here: the job compares the engine with the reference, on its own corpus.
        loaded = (
            load_tokenizer(tokenizer, engine="fast")
            if isinstance(tokenizer, str | os.PathLike)
            else tokenizer
        )
        with open_destination(out, operators.validation_out, restart=restart, share=share) as destination:
            runner = IngestRunner(
                destination=destination,
                execution=Execution(distribute=distribute, workers=workers, limits=job),
                started=started,
                progress=control.get("progress"),
                server=server,
                share=share,
                notes=notes,
            )
            planned = _plan_job(files, loaded, destination.store, codec, fields, operators, job)
            return runner.run(planned, append=append, max_reject_share=job.max_reject_share)


def _ingest_rows(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    rows: Samples | Interactions,
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    codec: Codec | None,
    workers: int | None,
    distribute: Distribute,
    fields: FieldOptions,
    operators: OperatorOptions,
    job: JobOptions,
    control: IngestControl,
) -> IngestSummary:
    """See `ingest`."""
    append, restart = control.get("append", False), control.get("restart", False)
    _check(
        out=out, codec=codec or "none", workers=workers, distribute=distribute, append=append, restart=restart
    )
    what = "samples" if isinstance(rows, Samples) else "interactions"
    if control.get("share") is not None:
        raise ConfigError(f"share: {what} are not ingested in shares. Leave it out")
    if distribute != "local":
        raise ConfigError(
            f"distribute is {distribute!r}: {what} are ingested by processes of this machine: local"
        )
    is_pairs = isinstance(rows, Samples) and rows.layout == "pairs"
    _refuse_options_of_documents(rows, tokenizer, fields, operators, job, is_pairs=is_pairs)
    paths = [sources] if isinstance(sources, str | os.PathLike) else sources
    progress = control.get("progress")
    if isinstance(rows, Interactions):
        if append or workers not in (None, 1):
            name, cure = (
                ("append", "Ingest the whole log") if append else ("workers", "Polars uses all cores")
            )
            raise ConfigError(f"ingest: {name}: not an option of interactions. {cure}")
        from headrace.ingestion.interactions.job import InteractionIngest

        return InteractionIngest(
            sources=paths,
            out=out,
            interactions=rows,
            codec=codec or "zstd",
            job=job,
            restart=restart,
            progress=progress,
        ).run()
    from headrace.ingestion.samples.job import SampleIngest
    from headrace.tokens import load_tokenizer

    loaded: Tokenizer | None = None
    if is_pairs:
        loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, str | os.PathLike) else tokenizer

    return SampleIngest(
        sources=paths,
        out=out,
        samples=rows,
        codec=codec,
        workers=workers,
        job=job,
        append=append,
        restart=restart,
        progress=progress,
        fields=fields,
        tokenizer=loaded,
    ).run()


def _refuse_options_of_documents(
    rows: Samples | Interactions,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    fields: FieldOptions,
    operators: OperatorOptions,
    job: JobOptions,
    *,
    is_pairs: bool,
) -> None:
    """Refuse options that rows of this kind would ignore.

    Raises:
        ConfigError: naming them.
    """
    of_text = [
        field.name
        for given, default in ((fields, FieldOptions()), (operators, OperatorOptions()))
        for field in dataclasses.fields(default)
        if getattr(given, field.name) != getattr(default, field.name)
    ]
    of_text += [
        name
        for name in ("skip_damaged", "shard_text_bytes", "block_tokens")
        if getattr(job, name) != getattr(JobOptions(), name)
    ]
    if is_pairs:
        of_text = [name for name in of_text if name not in _OPTIONS_OF_PAIRS]
    elif tokenizer != "byte":
        of_text.append("tokenizer")
    if of_text:
        kind = "samples are images" if isinstance(rows, Samples) else "interactions are a log"
        kind += ", and these options are of text"
        if is_pairs:
            kind = "pairs are rows, and these options are of documents"
        raise ConfigError(f"ingest: {kind}: {', '.join(of_text)}. Leave them out")


def _plan_job(
    files: Sequence[SourceFile],
    tokenizer: Tokenizer,
    blob: Blob,
    codec: Codec,
    fields: FieldOptions,
    operators: OperatorOptions,
    job: JobOptions,
) -> IngestJob:
    """The job, with the sizes that follow from the corpus and the store."""
    from headrace.ingestion.job.destination import block_tokens_for
    from headrace.ingestion.job.job import IngestJob
    from headrace.ingestion.operators.language import model_version
    from headrace.ingestion.operators.map import fingerprint
    from headrace.ingestion.operators.minhash import algorithm_version
    from headrace.ingestion.options import ContentOptions
    from headrace.ingestion.parse.html_text import extractor_version
    from headrace.ingestion.records import chat_options
    from headrace.ingestion.units.plan import shard_bytes_for

    if operators.dedup == "url" and operators.dedup_field not in fields.keep:
        raise ConfigError(
            f"dedup is url, and the field {operators.dedup_field!r} is not kept. Keep it (--keep), "
            f"or name another one by dedup_field (--dedup-field)"
        )
    options = ContentOptions(
        fields=replace(fields, chat=chat_options(fields, tokenizer)),
        operators=operators,
        codec=codec,
        block_tokens=job.block_tokens or block_tokens_for(blob, tokenizer),
        shard_text_bytes=job.shard_text_bytes or shard_bytes_for(files),
        map_fingerprint=None if operators.map is None else fingerprint(operators.map),
        minhash_algorithm=algorithm_version() if operators.dedup == "minhash" else None,
        language_model=model_version(operators.language) if operators.language else None,
        html_extractor=extractor_version() if any(map(has_pages, files)) else None,
    )
    return IngestJob(sources=tuple(files), options=options, tokenizer=tokenizer, generation=0)


def default_workers(sources: Sequence[SourceFile]) -> int:
    """The number of cores, and fewer for small sources."""
    size = sum(source.text_bytes for source in sources)
    return max(1, min(available_cores(), size // BYTES_PER_WORKER))


def _check(
    *, out: object, codec: str, workers: int | None, distribute: str, append: bool, restart: bool
) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; expected 1 or more")
    check_choice("codec", codec, Codec)
    check_choice("distribute", distribute, Distribute)
    if distribute == "ray" and str(out).startswith("memory://"):
        raise ConfigError(f"{out}: other machines do not see this process's memory; expected a path or URL")
    if append and restart:
        raise ConfigError("append adds to a store and restart deletes it; expected one of them")
