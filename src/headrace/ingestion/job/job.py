"""What is asked for, and what there is at OUT -> what is to be done: begin, go on, add, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from headrace.errors import ConfigError, ManifestError, ResumeError
from headrace.ingestion.options import Options
from headrace.ingestion.read.sources import Source
from headrace.ingestion.units.journal import ROOT, Journal
from headrace.storage import Blob
from headrace.store.commit import current_manifest
from headrace.store.manifest import Manifest
from headrace.tokens import Tokenizer

_CURES = "--restart (restart=True) starts over"
MAX_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One ingest: what fixes its bytes."""

    sources: tuple[Source, ...]
    options: Options
    tokenizer: Tokenizer
    generation: int
    """Jobs that made this store before."""
    engine: Literal["fast", "reference"] = "fast"
    """Which library computes the ids; they are the same, or the job says so and takes the reference."""

    def computing(self) -> Tokenizer:
        """The tokenizer on that engine."""
        return self.tokenizer if self.engine == "fast" else self.tokenizer.as_reference()

    def to_json(self) -> dict[str, Any]:
        """All that must be the same for a job to go on."""
        return {
            "format": 1,
            "generation": self.generation,
            "tokenizer": {"name": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "options": self.options.to_json(),
            "sources": [source.to_json() for source in self.sources],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a store is made, and its validation store if there is one."""

    store: Blob
    validation: Blob | None = None


def job_path(generation: int) -> str:
    """Where a store keeps what a job was asked for."""
    return f"ingest/{generation:03d}-job.json"


def store_rejects_path(generation: int) -> str:
    """Where a store keeps the documents that a job rejected."""
    return "rejects.jsonl" if generation == 0 else f"rejects-{generation:03d}.jsonl"


def sketches_path(generation: int) -> str:
    """Where a store keeps sketches of a job's documents, for dedup of later ones."""
    return f"ingest/{generation:03d}-sketches.bin"


def past_jobs(blob: Blob, manifest: Manifest) -> list[dict[str, Any]]:
    """What the jobs that made a store were asked for, the first one first.

    Raises:
        ManifestError: the store was not made by ingest, or a job's file is missing.
    """
    try:
        files = [entry["job"] for entry in manifest.extra["ingest"]]
        return [dict(orjson.loads(bytes(blob.get(file)))) for file in files]
    except (KeyError, TypeError, FileNotFoundError, orjson.JSONDecodeError) as error:
        raise ManifestError(
            f"{blob.url}: a store without a record of its sources ({error!r}): it cannot be told what is new. "
            f"Ingest into another directory"
        ) from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, strictly: bool) -> list[str]:
    """What differs between two jobs, in words; empty when they give the same bytes.

    Args:
        before: a job's `to_json`.
        now: another's.
        strictly: a file that was touched counts as changed.
    """
    found: list[str] = []
    if before["tokenizer"]["fingerprint"] != now["tokenizer"]["fingerprint"]:
        found.append(f"tokenizer was {before['tokenizer']['name']}, is {now['tokenizer']['name']}")
    old, new = _flat(before["options"]), _flat(now["options"])
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    found += [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed]
    return found + _source_differences(before["sources"], now["sources"], strictly=strictly)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _source_differences(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], *, strictly: bool
) -> list[str]:
    found: list[str] = []
    if len(before) != len(now):
        found.append(f"there were {len(before)} sources, and are {len(now)}")
    for old, new in zip(before, now, strict=False):
        if any(old[key] != new[key] for key in ("fingerprint", "format", "compression")):
            same_place = old["url"] == new["url"]
            found.append(
                f"{new['url']} has changed" if same_place else f"{new['url']} stands where {old['url']} was"
            )
        elif strictly and old["url"] == new["url"] and old["modified_ns"] != new["modified_ns"]:
            found.append(f"{new['url']} was written again")
    return found


def _say(found: Sequence[str]) -> str:
    more = f", and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return "; ".join(found[:MAX_NAMED]) + more


def check_same_job(blob: Blob, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a half-done job that was asked for something else.

    Raises:
        ResumeError: says what differs.
    """
    found = differences(before, now, strictly=True)
    if before["generation"] != now["generation"]:
        found.append("the store has grown meanwhile")
    if found:
        raise ResumeError(
            f"{blob.url}: holds a half-done ingest that was asked for something else: {_say(found)}. "
            f"Give the same sources and options to go on; {_CURES}"
        )


def check_same_store(blob: Blob, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to replace a store that was asked for something else.

    Raises:
        ConfigError: says what differs.
    """
    found = differences(before, now, strictly=False)
    if found:
        raise ConfigError(
            f"{blob.url}: there is a store already, and it was asked for something else: {_say(found)}. "
            f"--append (append=True) adds new files to it; {_CURES}"
        )


def check_fits(blob: Blob, manifest: Manifest, job: Job) -> None:
    """Refuse to add what could not be read together with what is there.

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


def check_place(blob: Blob) -> None:
    """Refuse to write among files that are no store.

    Raises:
        ConfigError: the place is not empty, and neither a store nor a half-done one.
    """
    strangers = [name for name in blob.list() if not name.startswith((f"{ROOT}/", "data/"))]
    if strangers and current_manifest(blob) is None and Journal(blob).job() is None:
        raise ConfigError(
            f"{blob.url}: not empty, and not a store: it holds {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}. Give an empty or new directory"
        )
