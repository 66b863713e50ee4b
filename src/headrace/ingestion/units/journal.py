"""OUT/.ingest: what a job was asked for, and which units are done.

    .ingest/job.json              sources, options, tokenizer; a job that goes on is asked for the same
    .ingest/units/<unit>.json     written after the unit's shards: the unit is done
    .ingest/rejects/<unit>.jsonl  its rejected documents
    .ingest/sketches/<unit>.json  dedup's first pass has read the unit; beside it, its documents' sketches
    .ingest/drop/<unit>.bin       which of the unit's documents are repeated, one bit each
    .ingest/seek/<fingerprint>    places from which a large .gz can be read
    .ingest/proven                the engine was found exact on this corpus; without it no unit counts
    .ingest/lock                  held (flock) while a job runs; released by the system when the process dies

Every file is written whole or not at all. The folder goes away when the store's manifest is in place.
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
_PROVEN = f"{ROOT}/proven"


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


class Journal:
    """The journal of one job."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def job(self) -> dict[str, Any] | None:
        """What the unfinished job was asked for; None where there is none."""
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
        """Write down what is asked for."""
        self._blob.put(JOB, orjson.dumps(job, option=orjson.OPT_INDENT_2))

    def prove(self) -> None:
        """Write down that the tokenizer's engine is exact on this corpus."""
        self._blob.put(_PROVEN, b"")

    def records(self) -> list[UnitRecord]:
        """Units that are done, by an engine that was proven exact; others are forgotten."""
        if _PROVEN not in self._blob.list(f"{ROOT}/"):
            self.forget_units()
        return self._read("units")

    def sketched(self) -> list[UnitRecord]:
        """Units of which dedup's first pass is done."""
        return self._read("sketches")

    def _read(self, folder: str) -> list[UnitRecord]:
        names = [name for name in self._blob.list(f"{ROOT}/{folder}/") if name.endswith(".json")]
        return [UnitRecord.from_json(orjson.loads(bytes(self._blob.get(name)))) for name in names]

    @property
    def is_marked(self) -> bool:
        """Are all repeated documents marked?"""
        return _MARKED in self._blob.list(f"{ROOT}/")

    def mark(self) -> None:
        """Write down that all repeated documents are marked."""
        self._blob.put(_MARKED, b"")

    def forget_units(self) -> None:
        """Do all units again."""
        for folder in ("units", "rejects"):
            for name in self._blob.list(f"{ROOT}/{folder}/"):
                self._blob.delete(name)

    def clear(self) -> None:
        """Forget the job; its shards stay. The job file goes first: without it there is no job."""
        self._blob.delete(JOB)
        for name in self._blob.list(f"{ROOT}/"):
            if name != LOCK:
                self._blob.delete(name)
        if isinstance(self._blob, LocalBlob):
            for folder in ("units", "rejects", "sketches", "drop", "seek"):
                shutil.rmtree(self._blob.root / ROOT / folder, ignore_errors=True)
