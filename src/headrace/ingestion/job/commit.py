"""Records of all units -> the store's rejects, its job file, and last its manifest."""

from __future__ import annotations

import mmap
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from headrace.errors import DocumentError, SourceError
from headrace.ingestion.build.document_reader import DAMAGED
from headrace.ingestion.job.dedup import kept_sketches
from headrace.ingestion.job.destination import Destination
from headrace.ingestion.job.job import IngestJob, job_path, sketches_path, store_rejects_path
from headrace.ingestion.job.seen import check_unchanged
from headrace.ingestion.job.summary import total
from headrace.ingestion.read.content_hash import has_content_hash, hash_chunks, join_chunks, num_chunks
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.journal import ROOT, rejects_path
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.sealed import hash_of, read_hashed
from headrace.storage import Blob, LocalBlob
from headrace.store import ShardEntry, commit_store, current_manifest


def lines_before(records: Sequence[UnitRecord], track: int, part: int) -> int:
    """Lines of the file before a part of it."""
    return sum(record.lines for record in records if record.track == track and record.part < part)


def check_documents(
    job: IngestJob, blob: Blob, records: Sequence[UnitRecord], max_reject_share: float
) -> None:
    """Refuse to make an empty store, or a store of a corpus with too many bad documents.

    Raises:
        DocumentError: more documents than max_reject_share were rejected; quotes the first one.
        SourceError: there are no documents.
    """
    documents = sum(record.documents for record in records)
    counts = total(record.rejected for record in records)
    rejected = counts.total() - counts[DAMAGED]  # damaged files were left out on purpose: skip_damaged
    dropped = sum(sum(record.dropped.values()) for record in records)
    if rejected and rejected > max_reject_share * (documents + rejected + dropped):
        first = next(record for record in records if record.first_reject is not None)
        reject = with_line(first.first_reject, lines_before(records, first.track, first.part))
        raise DocumentError(
            f"{describe_reject(reject)} [{rejected:,} of {documents + rejected + dropped:,} documents are bad; "
            f"max_reject_share allows {max_reject_share:g} of them; all are listed in {blob.url}/{ROOT}/rejects]"
        )
    if not documents:
        named = job.sources[0].url + (f" and {len(job.sources) - 1} more" if len(job.sources) > 1 else "")
        left_out = "" if not dropped else f"; {dropped:,} were left out: {_dropped_words(records)}"
        first_reject = next(
            (record.first_reject for record in records if record.first_reject is not None), None
        )
        if first_reject is not None:
            left_out += f"; {counts.total():,} were bad, the first one at {describe_reject(first_reject)}"
        raise SourceError(f"{named}: empty: no documents in {len(job.sources)} files{left_out}")


def _dropped_words(records: Sequence[UnitRecord]) -> str:
    counts = total(record.dropped for record in records).most_common()
    return ", ".join(f"{count:,} {name}" for name, count in counts)


def with_line(reject: Any, lines: int) -> dict[str, Any]:
    """A reject of one unit with its line counted from the file's start."""
    line = reject["line"]
    return {**reject, "line": None if line is None else line + lines}


def describe_reject(reject: Mapping[str, Any]) -> str:
    """One line of text: file, line, byte, what is wrong."""
    line = "" if reject["line"] is None else f"line {reject['line']}: "
    return f"{reject['source']}: {line}byte {reject['offset']}: {reject['detail']}"


def commit(job: IngestJob, destination: Destination, records: Sequence[UnitRecord]) -> int:
    """Write the store's manifest, after all else; returns its snapshot.

    The manifest has the hash of every other file that a later job reads.

    Args:
        job: fixes the bytes.
        destination: where the store is made.
        records: of all units, in the store's order.

    Raises:
        SourceError: a source changed while it was read.
        ResumeError: a file of the journal is damaged.
    """
    check_unchanged(job.sources)
    blob = destination.store
    hashes: dict[str, str] = {}
    _write_rejects(blob, store_rejects_path(job.generation), records, hashes)
    described = replace(job, sources=_with_content(job.sources, records))
    files = {job_path(job.generation): orjson.dumps(described.to_json(), option=orjson.OPT_INDENT_2)}
    if job.options.operators.dedup != "none":
        files[sketches_path(job.generation)] = b"".join(kept_sketches(job, blob, records))
    for path, data in files.items():
        blob.put(path, data)
        hashes[path] = hash_of(data)
    if destination.validation is not None:
        held_out: dict[str, Any] = {
            "documents": sum(record.validation_documents for record in records),
            "tokens": sum(record.validation_tokens for record in records),
            "text_bytes": sum(record.validation_text_bytes for record in records),
        }
        shards = [shard for record in records for shard in record.validation]
        _commit(job, destination.validation, shards, held_out)
    entries = [shard for record in records for shard in record.shards]
    return _commit(job, blob, entries, _entry(job, records, entries) | {"hashes": hashes})


def _entry(job: IngestJob, records: Sequence[UnitRecord], entries: Sequence[ShardEntry]) -> dict[str, Any]:
    """The manifest's entry for a job."""
    return {
        "job": job_path(job.generation),
        "documents": sum(record.documents for record in records),
        "tokens": sum(record.tokens for record in records),
        **({"given_tokens": given} if (given := sum(record.given_tokens for record in records)) else {}),
        "text_bytes": sum(record.text_bytes for record in records),
        "source_bytes": sum(source.nbytes for source in job.sources),
        "sources": len(job.sources),
        "shards": len(entries),
        "shard_bytes": sum(entry.nbytes for entry in entries),
        "rejected": dict(sorted(total(record.rejected for record in records).items())),
        "dropped": dict(sorted(total(record.dropped for record in records).items())),
    }


def _with_content(sources: Sequence[SourceFile], records: Sequence[UnitRecord]) -> tuple[SourceFile, ...]:
    """Sources with the hash of their content, from the chunks that units have hashed and those that none has."""
    digests: list[dict[int, str]] = [{} for _ in sources]
    for record in records:
        for number, chunks in record.chunks.items():
            digests[int(number)] |= {int(chunk): digest for chunk, digest in chunks.items()}
    hashed = []
    for source, known in zip(sources, digests, strict=True):
        if has_content_hash(source.url):
            missing = [chunk for chunk in range(num_chunks(source.nbytes)) if chunk not in known]
            digest = join_chunks(known | (hash_chunks(source.url, missing) if missing else {}))
            hashed.append(replace(source, content=digest))
        else:
            hashed.append(source)
    return tuple(hashed)


def _commit(job: IngestJob, blob: Blob, entries: Sequence[ShardEntry], about: Mapping[str, Any]) -> int:
    manifest = current_manifest(blob)
    _sweep(blob, {entry.name for entry in entries}, job.generation)
    if not entries:
        return 0 if manifest is None else manifest.snapshot
    past = [] if manifest is None or job.generation == 0 else list(manifest.extra["ingest"])
    return commit_store(
        blob,
        entries,
        tokenizer=job.tokenizer,
        block_tokens=job.options.block_tokens,
        append=job.generation > 0 and manifest is not None,
        extra={"ingest": [*past, about]},
    )


def _write_rejects(blob: Blob, path: str, records: Sequence[UnitRecord], hashes: dict[str, str]) -> None:
    """Write all rejects in the store's order, lines counted from each file's start; adds the file's hash."""
    if not any(record.rejected for record in records):
        blob.delete(path)
        return
    before: Counter[int] = Counter()
    with tempfile.TemporaryFile(prefix="headrace-rejects-") as file:
        for record in records:
            if record.rejected:
                data = read_hashed(blob, rejects_path(record.key), record.file_hash)
                for line in data.splitlines():
                    reject = with_line(orjson.loads(line), before[record.track])
                    file.write(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE))
            before[record.track] += record.lines
        file.flush()
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        blob.put(path, mapped)
        hashes[path] = hash_of(mapped)


def _sweep(blob: Blob, keep: set[str], generation: int) -> None:
    """Delete files of killed runs of this job in data/."""
    prefix = f"data/{generation:03d}-"
    for name in blob.list("data/"):
        if name.startswith(prefix) and name.removeprefix("data/").split(".", 1)[0] not in keep:
            blob.delete(name)
    if isinstance(blob, LocalBlob):
        for left in (blob.root / "data").glob(".*.tmp"):
            left.unlink(missing_ok=True)
