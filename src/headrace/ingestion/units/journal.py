"""OUT/.ingest: the description of a job, and which units are done.

    .ingest/job.json              sources, options, tokenizer; a job is continued with the same ones only
    .ingest/units/<unit>.json     written after the unit's shards: the unit is done
    .ingest/rejects/<unit>.jsonl  its rejected documents; their hash is in the unit's record
    .ingest/sketches/<unit>.json  the unit's first pass of deduplication is done; beside it, its sketches (.bin)
    .ingest/drop/<unit>.bin       which of the unit's documents are duplicates, one bit each
    .ingest/marked.json           all duplicates are marked; holds the hash of each file in drop/
    .ingest/seek/<fingerprint>    seek points of a large .gz, behind their hash
    .ingest/checked.json          which engine gives the reference's ids on this corpus; without it no unit counts
    .ingest/lock                  held (flock) while a job runs, together by all shares of one; released by the system
                                  when the process dies
    .ingest/lock-begin            held while one share of a job begins, or marks the duplicates for all
    .ingest/lock-3-of-16          held while share 3 of 16 runs

Every file is written whole or not at all, and read only if its hash is right. The directory is deleted once the
store's manifest is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from headrace.errors import ResumeError
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.sealed import damaged, read_sealed, seal
from headrace.storage import Blob, LocalBlob

ROOT = ".ingest"
JOB = f"{ROOT}/job.json"
LOCK = f"{ROOT}/lock"
_MARKED = f"{ROOT}/marked.json"
_CHECKED = f"{ROOT}/checked.json"


def record_path(key: str) -> str:
    """A unit's record."""
    return f"{ROOT}/units/{key}.json"


def rejects_path(key: str) -> str:
    """A unit's rejected documents."""
    return f"{ROOT}/rejects/{key}.jsonl"


def sketched_path(key: str) -> str:
    """A unit's record of the first pass of deduplication."""
    return f"{ROOT}/sketches/{key}.json"


def sketch_path(key: str) -> str:
    """Sketches of a unit's documents."""
    return f"{ROOT}/sketches/{key}.bin"


def seek_path(fingerprint: str) -> str:
    """Seek points of a compressed source; see `seekpoints`."""
    return f"{ROOT}/seek/{fingerprint}"


def drop_path(key: str) -> str:
    """Which of a unit's documents are duplicates."""
    return f"{ROOT}/drop/{key}.bin"


class UnitJournal:
    """The journal of one job."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def job(self) -> dict[str, Any] | None:
        """The description of the half-done job; None where there is none.

        Raises:
            ResumeError: it is damaged.
        """
        try:
            value = read_sealed(self._blob, JOB)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return dict(value)

    def has_job(self) -> bool:
        """Is there a half-done job, readable or not?"""
        return JOB in self._blob.list(f"{ROOT}/")

    def start(self, job: Mapping[str, Any]) -> None:
        """Write the description of the job."""
        self._blob.put(JOB, seal(job))

    def mark_engine_checked(self, engine: str = "fast") -> None:
        """Record that the tokenizer's engine gives the reference's ids on this corpus."""
        self._blob.put(_CHECKED, seal(engine))

    def checked_engine(self) -> str | None:
        """The engine that gives the reference's ids: fast or reference; None while that is not known.

        Raises:
            ResumeError: the record is damaged.
        """
        if _CHECKED not in self._blob.list(f"{ROOT}/"):
            return None
        engine = read_sealed(self._blob, _CHECKED)
        if engine not in ("fast", "reference"):
            raise damaged(self._blob, _CHECKED, f"it names the engine {engine!r}")
        return str(engine)

    def records(self) -> list[UnitRecord]:
        """Units done by an engine that was checked; others are deleted.

        Raises:
            ResumeError: a record is damaged.
        """
        if _CHECKED not in self._blob.list(f"{ROOT}/"):
            self.forget_units()
        return self._read("units")

    def sketched(self) -> list[UnitRecord]:
        """Units whose first pass of deduplication is done.

        Raises:
            ResumeError: a record is damaged.
        """
        return self._read("sketches")

    def _read(self, folder: str) -> list[UnitRecord]:
        records = []
        for name in self._blob.list(f"{ROOT}/{folder}/"):
            if name.endswith(".json"):
                try:
                    record = UnitRecord.from_json(read_sealed(self._blob, name))
                except ResumeError:
                    raise
                except (KeyError, TypeError, ValueError) as error:
                    raise damaged(self._blob, name, f"of another version ({error!r})") from None
                if name != f"{ROOT}/{folder}/{record.key}.json":
                    raise damaged(self._blob, name, f"it is the record of unit {record.key}")
                records.append(record)
        return records

    def duplicates(self) -> dict[str, str] | None:
        """Hash of each unit's file in drop/; None while duplicates are not marked.

        Raises:
            ResumeError: the list is damaged.
        """
        try:
            return dict(read_sealed(self._blob, _MARKED))
        except FileNotFoundError:
            return None

    def mark_duplicates(self, hashes: Mapping[str, str]) -> None:
        """Record that all duplicates are marked, and the hash of each unit's file."""
        self._blob.put(_MARKED, seal(dict(hashes)))

    def forget_units(self) -> None:
        """Delete the records of all units, so that they are done again."""
        for folder in ("units", "rejects"):
            for name in self._blob.list(f"{ROOT}/{folder}/"):
                self._blob.delete(name)

    def clear(self, *, keep_locks: bool = False) -> None:
        """Delete the journal; shards stay. The job file is deleted first: without it there is no half-done job.

        Args:
            keep_locks: other shares of a job may hold theirs.
        """
        self._blob.delete(JOB)
        for name in self._blob.list(f"{ROOT}/"):
            if name != LOCK and not (keep_locks and name.startswith(f"{LOCK}-")):
                self._blob.delete(name)
        if isinstance(self._blob, LocalBlob):
            for folder in ("units", "rejects", "sketches", "drop", "seek"):
                shutil.rmtree(self._blob.root / ROOT / folder, ignore_errors=True)
