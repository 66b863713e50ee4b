"""OUT/.ingest: what a job was asked for, and which units are done.

    .ingest/job.json              sources, options, tokenizer; a job that goes on is asked for the same
    .ingest/units/<unit>.json     written after the unit's shards: the unit is done
    .ingest/rejects/<unit>.jsonl  its rejected documents
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
from headrace.ingest.record import UnitRecord
from headrace.store import Blob
from headrace.store.blob import LocalBlob

ROOT = ".ingest"
JOB = f"{ROOT}/job.json"
LOCK = f"{ROOT}/lock"
_PROVEN = f"{ROOT}/proven"


def record_path(key: str) -> str:
    """A unit's record."""
    return f"{ROOT}/units/{key}.json"


def rejects_path(key: str) -> str:
    """A unit's rejected documents."""
    return f"{ROOT}/rejects/{key}.jsonl"


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
        names = [name for name in self._blob.list(f"{ROOT}/units/") if name.endswith(".json")]
        return [UnitRecord.from_json(orjson.loads(bytes(self._blob.get(name)))) for name in names]

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
            for folder in ("units", "rejects"):
                shutil.rmtree(self._blob.root / ROOT / folder, ignore_errors=True)
