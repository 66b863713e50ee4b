"""OUT/.ingest: the description of a job, and which units are done.

    .ingest/job.json              sources, options, tokenizer; a job is continued with the same ones only
    .ingest/units/<unit>.json     written after the unit's shards: the unit is done
    .ingest/rejects/<unit>.jsonl  its rejected documents
    .ingest/sketches/<unit>.json  the unit's first pass of deduplication is done; beside it, its sketches
    .ingest/drop/<unit>.bin       which of the unit's documents are duplicates, one bit each
    .ingest/seek/<fingerprint>    places from which a large .gz can be read
    .ingest/proven                the engine gives the reference's ids on this corpus; without it no unit counts
    .ingest/lock                  held (flock) while a job runs; released by the system when the process dies

Every file is written whole or not at all. The directory is deleted once the store's manifest is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import orjson

from headrace.errors import ResumeError
from headrace.ingestion.units.record import UnitRecord
from headrace.storage import Blob, LocalBlob

ROOT = ".ingest"
JOB = f"{ROOT}/job.json"
LOCK = f"{ROOT}/lock"
_MARKED = f"{ROOT}/marked"
_CHECKED = f"{ROOT}/proven"


def record_path(key: str) -> str:
    """A unit's record."""
    return f"{ROOT}/units/{key}.json"


def rejects_path(key: str) -> str:
    """A unit's rejected documents."""
    return f"{ROOT}/rejects/{key}.jsonl"


def sketched_path(key: str) -> str:
    """A unit's record of dedup's first pass."""
    return f"{ROOT}/sketches/{key}.json"


def sketch_path(key: str) -> str:
    """Sketches of a unit's documents."""
    return f"{ROOT}/sketches/{key}.bin"


def seek_path(fingerprint: str) -> str:
    """Places from which a compressed source can be read; see `seekpoints`."""
    return f"{ROOT}/seek/{fingerprint}"


def drop_path(key: str) -> str:
    """Which of a unit's documents are repeated."""
    return f"{ROOT}/drop/{key}.bin"


class UnitJournal:
    """The journal of one job."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def job(self) -> dict[str, Any] | None:
        """The description of the half-done job; None where there is none."""
        try:
            data = bytes(self._blob.get(JOB))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return dict(orjson.loads(data))
        except (orjson.JSONDecodeError, TypeError) as error:
            raise ResumeError(
                f"{self._blob.url}/{JOB}: damaged: {error}. Start over with --restart (restart=True)"
            ) from error

    def start(self, job: Mapping[str, Any]) -> None:
        """Write the description of the job."""
        self._blob.put(JOB, orjson.dumps(job, option=orjson.OPT_INDENT_2))

    def mark_engine_checked(self) -> None:
        """Record that the tokenizer's engine gives the reference's ids on this corpus."""
        self._blob.put(_CHECKED, b"")

    def records(self) -> list[UnitRecord]:
        """Units done by an engine that was checked; others are deleted."""
        if _CHECKED not in self._blob.list(f"{ROOT}/"):
            self.forget_units()
        return self._read("units")

    def sketched(self) -> list[UnitRecord]:
        """Units whose first pass of deduplication is done."""
        return self._read("sketches")

    def _read(self, folder: str) -> list[UnitRecord]:
        names = [name for name in self._blob.list(f"{ROOT}/{folder}/") if name.endswith(".json")]
        return [UnitRecord.from_json(orjson.loads(bytes(self._blob.get(name)))) for name in names]

    @property
    def is_marked(self) -> bool:
        """Are all duplicates marked?"""
        return _MARKED in self._blob.list(f"{ROOT}/")

    def mark(self) -> None:
        """Record that all duplicates are marked."""
        self._blob.put(_MARKED, b"")

    def forget_units(self) -> None:
        """Delete the records of all units, so that they are done again."""
        for folder in ("units", "rejects"):
            for name in self._blob.list(f"{ROOT}/{folder}/"):
                self._blob.delete(name)

    def clear(self) -> None:
        """Delete the journal; shards stay. The job file is deleted first: without it there is no half-done job."""
        self._blob.delete(JOB)
        for name in self._blob.list(f"{ROOT}/"):
            if name != LOCK:
                self._blob.delete(name)
        if isinstance(self._blob, LocalBlob):
            for folder in ("units", "rejects", "sketches", "drop", "seek"):
                shutil.rmtree(self._blob.root / ROOT / folder, ignore_errors=True)
