"""Sketches of all units -> for each unit, which of its documents are duplicates of earlier ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import ConfigError
from headrace.ingestion.job.job import IngestJob, sketches_path
from headrace.ingestion.operators import exact, minhash, urls
from headrace.ingestion.units.journal import UnitJournal, drop_path, sketch_path
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.sealed import damaged, hash_of, read_hashed
from headrace.storage import Blob, LocalBlob


def mark_duplicates(
    job: IngestJob, blob: Blob, records: Sequence[UnitRecord], past: Sequence[Any]
) -> dict[str, str]:
    """Write, for each unit, which of its documents are duplicates; the hash of each file.

    The first of equal (or near-equal) documents in the order of the store is kept, documents of earlier jobs included.

    Args:
        job: its options have dedup.
        blob: the store's place.
        records: of the first pass, in the store's order.
        past: descriptions of the earlier jobs of this store.

    Raises:
        ConfigError: an earlier job had no dedup, or another one, so its documents cannot be compared.
    """
    for number, one in enumerate(past[: job.generation]):
        before, now = _dedup_of(one["options"]), _dedup_of(job.options.to_json())
        if before != now:
            raise ConfigError(
                f"{blob.url}: job {number} was run with dedup {before[0]} {before[1:]}, now it is {now[0]} {now[1:]}: "
                f"new documents cannot be compared with those of that job. Give the same"
            )
    seen = [
        _load(job, blob, sketches_path(number), past[number]["hashes"][sketches_path(number)])
        for number in range(job.generation)
    ]
    own = [_load(job, blob, sketch_path(record.key), record.file_hash) for record in records]
    repeated = _duplicates(job)([*seen, *own])
    at = sum(map(len, seen))
    hashes: dict[str, str] = {}
    for record, sketches in zip(records, own, strict=True):
        packed = np.packbits(repeated[at : at + len(sketches)]).tobytes()
        blob.put(drop_path(record.key), packed)
        hashes[record.key] = hash_of(packed)
        at += len(sketches)
    return hashes


def _dedup_of(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be equal for sketches of two jobs to be comparable."""
    return (
        options["operators"]["dedup"],
        options["operators"]["dedup_threshold"],
        options["minhash_algorithm"],
        options["operators"].get("dedup_field"),
        options["operators"].get("dedup_min_chars"),
    )


def kept_sketches(job: IngestJob, blob: Blob, records: Sequence[UnitRecord]) -> list[bytes]:
    """Sketches of the documents that are no duplicates, which the store keeps for later jobs.

    Raises:
        ResumeError: a file of the journal is damaged.
    """
    kept = []
    journal = UnitJournal(blob)
    duplicates = journal.duplicates() or {}
    hashes = {record.key: record.file_hash for record in journal.sketched()}
    for record in records:
        sketches = _load(job, blob, sketch_path(record.key), hashes.get(record.key, ""))
        data = read_hashed(blob, drop_path(record.key), duplicates.get(record.key, ""))
        packed = np.frombuffer(data, dtype=np.uint8)
        repeated = np.unpackbits(packed, count=len(sketches)).astype(np.bool_)
        kept.append(sketches[~repeated].tobytes())
    return kept


def _duplicates(job: IngestJob) -> Any:
    if job.options.operators.dedup == "minhash":
        return functools.partial(minhash.repeats, threshold=job.options.operators.dedup_threshold)
    return urls.repeats if job.options.operators.dedup == "url" else exact.repeats


def _load(job: IngestJob, blob: Blob, path: str, expected: str) -> npt.NDArray[Any]:
    """Sketches, mapped where the file is local: uint64 [n, 2] or uint32 [n, 128]; checked against their hash."""
    kind, width = (
        (np.uint32, minhash.PERMUTATIONS) if job.options.operators.dedup == "minhash" else (np.uint64, 2)
    )
    try:
        if isinstance(blob, LocalBlob) and blob.size(path):
            data: Any = np.memmap(blob.path(path), dtype=np.uint8, mode="r")
        else:
            data = np.frombuffer(bytes(blob.get(path)), dtype=np.uint8)
    except FileNotFoundError:
        raise damaged(blob, path, "missing") from None
    actual = hash_of(memoryview(data))
    if actual != expected:
        raise damaged(blob, path, f"xxh3_128 is {actual}, expected {expected}")
    return np.asarray(data).view(kind).reshape(-1, width)
