"""What a job was asked for, and what an earlier one was -> whether they make the same store, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from headrace.errors import ConfigError, ManifestError, ResumeError
from headrace.ingestion.job.seen import same_content
from headrace.ingestion.options import ContentOptions
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.sealed import RESTART as _RESTART
from headrace.ingestion.units.sealed import read_hashed
from headrace.storage import Blob
from headrace.store import Manifest, SampleStore, Store
from headrace.tokens import Tokenizer

FORMAT = 2
"""Version of a job's description; one of another version cannot be compared."""
MAX_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestJob:
    """One ingest: what fixes its bytes."""

    sources: tuple[SourceFile, ...]
    options: ContentOptions
    tokenizer: Tokenizer
    generation: int
    """Jobs that made this store before."""
    engine: Literal["fast", "reference"] = "fast"
    """Which library computes the ids; they are the same, or the job says so and takes the reference."""

    def computing_tokenizer(self) -> Tokenizer:
        """The tokenizer with that engine."""
        return self.tokenizer if self.engine == "fast" else self.tokenizer.as_reference()

    def to_json(self) -> dict[str, Any]:
        """Everything that must be equal for a half-done job to be continued."""
        return {
            "format": FORMAT,
            "generation": self.generation,
            "tokenizer": {"name": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "options": self.options.to_json(),
            "sources": [source.to_json() for source in self.sources],
        }


def job_path(generation: int) -> str:
    """The file of a store that describes a job."""
    return f"ingest/{generation:03d}-job.json"


def store_rejects_path(generation: int) -> str:
    """The file of a store with the documents that a job rejected."""
    return "rejects.jsonl" if generation == 0 else f"rejects-{generation:03d}.jsonl"


def sketches_path(generation: int) -> str:
    """The file of a store with sketches of a job's documents, for deduplication of later ones."""
    return f"ingest/{generation:03d}-sketches.bin"


def past_jobs(blob: Blob, manifest: Manifest) -> list[dict[str, Any]]:
    """Descriptions of the jobs that made a store, the first one first.

    Raises:
        ManifestError: the store was not made by ingest, or a job's file is missing or damaged.
    """
    jobs = []
    try:
        for entry in manifest.extra["ingest"]:
            path, hashes = entry["job"], dict(entry["hashes"])
            job = dict(orjson.loads(read_hashed(blob, path, hashes[path])))
            jobs.append({**job, "hashes": hashes})
    except (KeyError, TypeError, ResumeError, orjson.JSONDecodeError) as error:
        raise ManifestError(
            f"{blob.url}: its record of the ingested sources cannot be read ({error}), so new sources cannot be told "
            f"from old ones. Ingest into another directory; {_RESTART}"
        ) from error
    for job in jobs:
        check_readable(blob, job)
    return jobs


def verify_job_files(store: Store | SampleStore) -> int:
    """Check every file that ingest has written beside a store's shards: job descriptions, rejects, sketches.

    Returns:
        Files checked; 0 for a store that was not made by ingest.

    Raises:
        ManifestError: one is missing or damaged.
    """
    checked = 0
    for entry in store.extra.get("ingest", ()):
        for path, expected in entry.get("hashes", {}).items():
            try:
                read_hashed(store.blob, path, expected)
            except ResumeError as error:
                reason = str(error).partition(" The job cannot")[0]
                raise ManifestError(
                    f"{reason} Restore it from a copy: an append to this store needs it"
                ) from error
            checked += 1
    return checked


def differences(before: Mapping[str, Any], job: IngestJob, *, strictly: bool) -> list[str]:
    """Differences between two jobs, in words; empty when they make the same bytes.

    Args:
        before: a job's `to_json`.
        job: another one.
        strictly: a file with another time of change counts as changed; else its content decides.
    """
    now = job.to_json()
    different: list[str] = []
    if before["tokenizer"]["fingerprint"] != now["tokenizer"]["fingerprint"]:
        different.append(f"tokenizer was {before['tokenizer']['name']}, is {now['tokenizer']['name']}")
    old, new = _flat(before["options"]), _flat(now["options"])
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    different += [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed]
    return different + _source_differences(before["sources"], job.sources, strictly=strictly)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _source_differences(
    before: Sequence[Mapping[str, Any]], now: Sequence[SourceFile], *, strictly: bool
) -> list[str]:
    different: list[str] = []
    if len(before) != len(now):
        different.append(f"there were {len(before)} sources, and are {len(now)}")
    for old, new in zip(before, now, strict=False):
        same = old["fingerprint"] == new.fingerprint if strictly else same_content(old, new)[0]
        if not same or (old["format"], old["compression"]) != (new.format, new.compression):
            same_place = old["url"] == new.url
            different.append(
                f"{new.url} has changed" if same_place else f"{new.url} is where {old['url']} was"
            )
        elif strictly and old["url"] == new.url and old["modified_ns"] != new.modified_ns:
            different.append(f"{new.url} was written again")
    return different


def check_readable(blob: Blob, before: Mapping[str, Any]) -> None:
    """Refuse the description of a job that another version of headrace has written.

    Raises:
        ResumeError: says which version.
    """
    if before.get("format") != FORMAT:
        raise ResumeError(
            f"{blob.url}: an ingest of another version of headrace is there (format {before.get('format')}, "
            f"expected {FORMAT}); {_RESTART}"
        )


def _sentence(different: Sequence[str]) -> str:
    more = f", and {len(different) - MAX_NAMED} more" if len(different) > MAX_NAMED else ""
    return "; ".join(different[:MAX_NAMED]) + more


def check_same_job(blob: Blob, before: Mapping[str, Any], job: IngestJob) -> None:
    """Refuse to continue a half-done job that has other sources or options.

    Raises:
        ResumeError: says what differs.
    """
    different = differences(before, job, strictly=True)
    if before["generation"] != job.generation:
        different.append("the store has grown since then")
    if different:
        raise ResumeError(
            f"{blob.url}: holds a half-done ingest with other sources or options: {_sentence(different)}. "
            f"Give the same sources and options to continue it; {_RESTART}"
        )


def check_same_store(blob: Blob, before: Mapping[str, Any], job: IngestJob) -> None:
    """Refuse to replace a store that was made from other sources or with other options.

    Raises:
        ConfigError: says what differs.
    """
    different = differences(before, job, strictly=False)
    if different:
        raise ConfigError(
            f"{blob.url}: there is a store already, made from other sources or with other options: "
            f"{_sentence(different)}. "
            f"--append (append=True) adds new files to it; {_RESTART}"
        )


def check_fits(blob: Blob, manifest: Manifest, job: IngestJob) -> None:
    """Refuse to append what could not be read together with the store.

    Raises:
        ConfigError: another tokenizer, or blocks of another size.
    """
    if manifest.tokenizer_fingerprint != job.tokenizer.fingerprint:
        raise ConfigError(
            f"{blob.url}: its tokenizer is {manifest.tokenizer_name} ({manifest.tokenizer_fingerprint}), the new "
            f"files' is {job.tokenizer.name} ({job.tokenizer.fingerprint}). Ingest into a new store"
        )
    if manifest.block_tokens != job.options.block_tokens:
        raise ConfigError(
            f"{blob.url}: its blocks have {manifest.block_tokens} tokens, block_tokens is "
            f"{job.options.block_tokens}. Give the same, or ingest into a new store"
        )
