"""Files, globs, directories, URLs -> a store: `ingest`, as it is called."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from headrace.errors import ConfigError
from headrace.ingestion.fields import Fields, TextMode
from headrace.ingestion.fork_server import start_fork_server
from headrace.ingestion.read.sources import Source, find_sources

if TYPE_CHECKING:
    from headrace.ingestion.job.progress import ProgressCallback
    from headrace.ingestion.job.summary import IngestSummary
    from headrace.ingestion.operators.filters import Filters
    from headrace.ingestion.operators.minhash import MinHash
    from headrace.tokens import Tokenizer

BYTES_PER_WORKER = 16 << 20
"""Sources a process is worth starting for; only the default number of workers depends on it."""


def ingest(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer = "byte",
    codec: str = "zstd",
    workers: int | None = None,
    distribute: Literal["local", "ray"] = "local",
    text_field: str = "text",
    text_mode: TextMode = "auto",
    keep: Sequence[str] = (),
    strict: bool = False,
    max_reject_share: float = 0.05,
    max_document_bytes: int = 16 << 20,
    normalise: bool = False,
    filters: Filters | None = None,
    sample: float = 1.0,
    dedup: Literal["exact", "minhash"] | MinHash | None = None,
    validation_share: float = 0.0,
    validation_out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    shard_text_bytes: int | None = None,
    block_tokens: int | None = None,
    append: bool = False,
    restart: bool = False,
    progress: ProgressCallback | None = None,
) -> IngestSummary:
    """Turn raw text into a store, as a job that can be killed at any moment and goes on where it was.

    The bytes of the store depend on sources, options and tokenizer alone: not on the number of workers, not on
    how often the job was interrupted. Until the manifest is written, last of all, there is no store.

    Args:
        sources: files, globs, directories, URLs (s3, gs, az, http(s)) of .txt, .jsonl, .json, .csv, .tsv,
            .parquet, Arrow or Feather, Hugging Face datasets directories, WebDataset tars; plain, or packed
            by gzip, zstd, xz, bzip2 or lz4, which is told by the first bytes.
        out: the store: a directory or a URL.
        tokenizer: byte, gpt2, cl100k_base, o200k_base, a path (see `load_tokenizer`), or a tokenizer.
        codec: none, lz4 or zstd.
        workers: processes; None takes the cores, and fewer for small sources.
        distribute: local, or ray: the same units on a Ray cluster.
        text_field: field or column with the text; a dotted name looks inside objects.
        text_mode: what a document of a text file is: file, line, block (separated by blank lines), or auto:
            a file up to 1 MiB is one document, a longer one is cut at blank lines.
        keep: other fields, kept as metadata of each document (as strings; anything else as JSON).
        strict: stop at the first bad document instead of listing it.
        max_reject_share: fail if more than this share of the documents is bad.
        max_document_bytes: longer documents are rejected; one of this size takes about 8 times as much memory.
        normalise: bring text to NFC and line ends to a newline.
        filters: drop short, symbol-ridden or repetitive documents; `Filters()` has mild limits.
        sample: take this share of the documents, chosen by their text.
        dedup: drop documents that stood before in the order of the sources: equal ones (exact), or near ones
            (minhash, or a `MinHash` with its threshold); sources are then read twice.
        validation_share: put this share of the documents, chosen by their text, into a second store.
        validation_out: that store.
        seed: of the sample and the split.
        shard_text_bytes: text in a shard, and in a unit of work; None takes 16 to 64 MiB, more for more sources.
        block_tokens: tokens in a block of a shard; None takes the store's own, or 256 KiB of tokens.
        append: add files that the store has not seen; what is there keeps its rows.
        restart: forget a half-done job or a store at `out`, and start over.
        progress: called with (source bytes done, source bytes in all, a note).

    Returns:
        Counts of the whole job, and where the time went.

    Raises:
        SourceError: a source is missing, truncated, not what its name says, or there are no documents.
        DocumentError: strict and a document is bad, or too many are.
        TokenizerError: the tokenizer cannot be found or trusted.
        ConfigError: an option makes no sense, or `out` is taken.
        ResumeError: a half-done job at `out` was asked for something else.
        SpaceError: the device is full; run the same command again when there is room.
    """
    started = time.perf_counter()
    _check(
        out=out,
        workers=workers,
        distribute=distribute,
        max_reject_share=max_reject_share,
        append=append,
        restart=restart,
    )
    if (validation_share > 0) != (validation_out is not None):
        raise ConfigError(
            f"validation_share is {validation_share} and validation_out is {validation_out!r}; wanted both or neither"
        )
    found = find_sources([sources] if isinstance(sources, str | os.PathLike) else sources)
    # What is in this process's memory, other processes do not see.
    workers = 1 if str(out).startswith("memory://") else workers or default_workers(found)
    early = workers > 1 and distribute == "local" and dedup is None
    named = os.fspath(tokenizer) if isinstance(tokenizer, str | os.PathLike) else None
    with start_fork_server(named) if early else nullcontext() as server:
        # NumPy, the store, the tokenizers: 0.15 s, while the fork server loads them as well.
        from headrace.ingestion.distribute import Execution
        from headrace.ingestion.job.destination import block_tokens_for, open_destination
        from headrace.ingestion.job.job import Job
        from headrace.ingestion.operators.minhash import MinHash
        from headrace.ingestion.options import SHARD_TEXT_BYTES, Options
        from headrace.ingestion.pipeline import IngestRunner
        from headrace.ingestion.units.plan import shard_bytes_for
        from headrace.tokens import load_tokenizer

        options = Options(
            fields=Fields(text=text_field, keep=tuple(keep), max_bytes=max_document_bytes),
            text_mode=text_mode,
            codec=codec,
            block_tokens=1 if block_tokens is None else block_tokens,
            shard_text_bytes=SHARD_TEXT_BYTES if shard_text_bytes is None else shard_text_bytes,
            normalise=normalise,
            filters=filters,
            sample=sample,
            dedup=MinHash() if dedup == "minhash" else dedup,
            validation_share=validation_share,
            seed=seed,
        )
        # Unchecked here: the job compares the engine with the reference, on its own corpus.
        chosen = (
            load_tokenizer(tokenizer, engine="fast")
            if isinstance(tokenizer, str | os.PathLike)
            else tokenizer
        )
        with open_destination(out, validation_out, restart=restart) as destination:
            if shard_text_bytes is None:
                options = replace(options, shard_text_bytes=shard_bytes_for(found))
            if block_tokens is None:
                options = replace(options, block_tokens=block_tokens_for(destination.store, chosen))
            job = Job(sources=tuple(found), options=options, tokenizer=chosen, generation=0)
            runner = IngestRunner(
                destination=destination,
                execution=Execution(distribute=distribute, workers=workers, strict=strict),
                started=started,
                progress=progress,
                server=server,
            )
            return runner.run(job, append=append, max_reject_share=max_reject_share)


def default_workers(sources: Sequence[Source]) -> int:
    """The cores, and fewer for small sources."""
    size = sum(source.text_bytes for source in sources)
    return max(1, min(len(os.sched_getaffinity(0)), size // BYTES_PER_WORKER))


def _check(
    *, out: object, workers: int | None, distribute: str, max_reject_share: float, append: bool, restart: bool
) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; wanted 1 or more")
    if distribute not in ("local", "ray"):
        raise ConfigError(f"distribute is {distribute!r}; expected local or ray")
    if not 0 <= max_reject_share <= 1:
        raise ConfigError(f"max_reject_share is {max_reject_share}; wanted a share between 0 and 1")
    if distribute == "ray" and str(out).startswith("memory://"):
        raise ConfigError(f"{out}: other machines do not see this process's memory; wanted a path or URL")
    if append and restart:
        raise ConfigError("append adds to a store and restart throws it away; wanted one of them")
