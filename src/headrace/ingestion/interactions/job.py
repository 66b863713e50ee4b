"""A log of interactions -> a store of samples or of item tokens: written whole, or nothing to do.

A log is sorted as a whole, so a job that was killed is done again from the beginning; the same command gives the same
bytes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from headrace.errors import ConfigError, DocumentError, ResumeError
from headrace.ingestion.interactions.histories import Histories, histories_of
from headrace.ingestion.interactions.item_tokens import item_documents, item_tokenizer
from headrace.ingestion.interactions.log import InteractionLog, log_files, read_log
from headrace.ingestion.interactions.options import Interactions
from headrace.ingestion.interactions.rows import column_pieces, features_of
from headrace.ingestion.job.destination import open_destination
from headrace.ingestion.job.summary import IngestSummary
from headrace.ingestion.options import Codec, FieldOptions, JobOptions
from headrace.ingestion.store_writer import StoreWriter
from headrace.ingestion.units.journal import ROOT, UnitJournal
from headrace.ingestion.units.sealed import RESTART, hash_of, read_sealed, seal
from headrace.interactions import ITEMS_FILE, USERS_FILE
from headrace.storage import Blob, LocalBlob, open_blob
from headrace.store import (
    Store,
    commit_samples,
    current_manifest,
    current_samples,
    row_nbytes,
    write_sample_shard,
)

REJECTS = "rejects.jsonl"
DESCRIPTION = f"{ROOT}/interactions.json"
"""How a store of item tokens was made; written before its manifest, so that the same command finds nothing to do."""
BLOCK_BYTES = 4 << 20
"""Rows of a batch lie in few blocks: what a batch costs grows with their number."""
FORMAT = "interactions 1"
"""Version of a job's description."""
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionIngest:
    """One call of `ingest` for interactions."""

    sources: Sequence[str | os.PathLike[str]]
    out: str | os.PathLike[str]
    interactions: Interactions
    codec: Codec
    job: JobOptions
    restart: bool
    progress: Progress | None

    def run(self) -> IngestSummary:
        """See `headrace.ingestion.ingest`."""
        started = time.perf_counter()
        files = log_files(self.sources)
        description: dict[str, Any] = {
            "format": FORMAT,
            "sources": [_source(file) for file in files],
            "options": asdict(self.interactions) | {"features": list(self.interactions.features)},
            "codec": self.codec,
        }
        if self.interactions.rows == "tokens":
            return self._write_tokens(files, description, started)
        with open_destination(self.out, None, restart=self.restart) as destination:
            return self._write_samples(destination.store, files, description, started)

    def _read(self, files: Sequence[Path], notes: list[str]) -> tuple[InteractionLog, Histories]:
        nbytes = sum(file.stat().st_size for file in files)
        if self.progress is not None:
            self.progress(0, nbytes, "reading")
        log = read_log(files, self.interactions)
        _check_rejects(log, self.job)
        histories = histories_of(log, self.interactions, notes)
        if self.progress is not None:
            self.progress(nbytes, nbytes, f"{len(histories.items):,} interactions")
        fields = ", ".join(f"{what} {name}" for what, name in log.columns.items())
        notes.insert(
            0,
            f"{len(histories.items):,} interactions of {len(histories.user_keys):,} users with "
            f"{len(histories.item_keys):,} items; columns: {fields}",
        )
        return log, histories

    # --- a store of samples ---

    def _write_samples(
        self, blob: Blob, files: Sequence[Path], description: dict[str, Any], started: float
    ) -> IngestSummary:
        journal, notes = UnitJournal(blob), list[str]()
        manifest, half_done = current_samples(blob), journal.job()
        if manifest is not None:
            past = manifest.extra.get("ingest") or [{}]
            if any(past[-1].get(name) != value for name, value in description.items()):
                raise ConfigError(
                    f"{blob.url}: there is a store already, made from other sources or with other options. Give "
                    f"another --out; {RESTART}"
                )
            journal.clear()
            notes.append("the store was there already, made by the same command")
            return self._summary(blob.url, past[-1], notes, manifest.snapshot, started)
        if half_done is not None and half_done != description:
            raise ResumeError(
                f"{blob.url}: holds a half-done ingest with other sources or options. Give the same to do it again; "
                f"{RESTART}"
            )
        log, histories = self._read(files, notes)
        journal.start(description)
        for name in blob.list("data/"):  # of a job that was killed
            blob.delete(name)
        options, features = self.interactions, features_of(histories, self.interactions)
        entries, nbytes = [], 0
        for number, columns in enumerate(column_pieces(histories, options)):
            nbytes += int(row_nbytes(columns).sum())
            name = f"000-{number:07d}-0000"
            entries.append(
                write_sample_shard(blob, name, columns, features, codec=self.codec, block_bytes=BLOCK_BYTES)
            )
        if not entries:
            raise DocumentError(f"{files[0]}: no interaction in the part {options.part!r} of the split")
        about = {
            **description,
            "rows": sum(entry.rows for entry in entries),
            "bytes": nbytes,
            "shards": len(entries),
            "store_bytes": sum(entry.nbytes for entry in entries),
            "rejected": dict(sorted(Counter(reject.reason for reject in log.rejects).items())),
            "users": len(histories.user_keys),
            "items": len(histories.item_keys),
            "hashes": _write_files(blob, log, histories, options),
        }
        snapshot = commit_samples(blob, entries, features=features, extra={"ingest": [about]})
        journal.clear()
        if isinstance(blob, LocalBlob):
            for left in (blob.root / "data").glob(".*.tmp"):
                left.unlink(missing_ok=True)
        return self._summary(blob.url, about, notes, snapshot, started)

    def _summary(
        self, url: str, about: Mapping[str, Any], notes: Sequence[str], snapshot: int, started: float
    ) -> IngestSummary:
        return IngestSummary(
            out=url,
            snapshot=snapshot,
            documents=about["rows"],
            tokens=0,
            bytes_in=about["bytes"],
            source_bytes=sum(source[1] for source in about["sources"]),
            store_bytes=about["store_bytes"],
            num_sources=len(about["sources"]),
            num_shards=about["shards"],
            rejects=dict(about["rejected"]),
            wall_s=time.perf_counter() - started,
            notes=tuple(notes),
        )

    # --- a store of item tokens ---

    def _write_tokens(
        self, files: Sequence[Path], description: dict[str, Any], started: float
    ) -> IngestSummary:
        notes, blob = list[str](), open_blob(self.out)
        manifest = None if self.restart else current_manifest(blob)
        if manifest is not None:
            if _described(blob) != description:
                raise ConfigError(
                    f"{blob.url}: there is a store already, made from other sources or with other options. Give "
                    f"another --out; {RESTART}"
                )
            notes.append("the store was there already, made by the same command")
            return self._token_summary(blob, description, Counter(), notes, started)
        log, histories = self._read(files, notes)
        with tempfile.TemporaryDirectory(prefix="headrace-items-") as folder:
            tokenizer = Path(folder, "items.json")
            tokenizer.write_bytes(item_tokenizer(histories.item_keys))
            writer = StoreWriter(
                self.out,
                tokenizer=tokenizer,
                codec=self.codec,
                fields=FieldOptions(keep=("user",), record="text"),
                restart=self.restart,
            )
            with writer:
                blob.put(DESCRIPTION, seal(description))
                for user, text in item_documents(histories, self.interactions.part):
                    writer.write(text, {"user": user})
        if log.rejects:
            _write_rejects(blob, log)
        rejected = Counter(reject.reason for reject in log.rejects)
        return self._token_summary(blob, description, rejected, notes, started)

    def _token_summary(
        self,
        blob: Blob,
        description: Mapping[str, Any],
        rejected: Counter[str],
        notes: Sequence[str],
        started: float,
    ) -> IngestSummary:
        with Store.open(self.out) as store:
            return IngestSummary(
                out=blob.url,
                snapshot=store.snapshot,
                documents=store.num_documents,
                tokens=store.num_tokens,
                bytes_in=0,
                source_bytes=sum(source[1] for source in description["sources"]),
                store_bytes=store.nbytes,
                num_sources=len(description["sources"]),
                num_shards=store.num_shards,
                rejects=dict(sorted(rejected.items())),
                tokenizer="items",
                wall_s=time.perf_counter() - started,
                notes=tuple(notes),
            )


def _described(blob: Blob) -> Any:
    """The description of the job that made a store of item tokens; None of other stores."""
    try:
        return read_sealed(blob, DESCRIPTION)
    except FileNotFoundError:
        return None


def _source(path: Path) -> list[Any]:
    """A source's path, size and time of change."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _check_rejects(log: InteractionLog, job: JobOptions) -> None:
    """Refuse a log with too many bad rows.

    Raises:
        DocumentError: quotes the first one.
    """
    total, bad = log.table.height + len(log.rejects), len(log.rejects)
    if bad and (job.strict or not log.table.height or bad > job.max_reject_share * total):
        first = log.rejects[0]
        allowed = "strict" if job.strict else f"max_reject_share allows {job.max_reject_share:g} of them"
        raise DocumentError(
            f"{_in_words(first.source, asdict(first))} [{bad:,} of {total:,} rows are bad; {allowed}]"
        )
    if not total:
        raise DocumentError("the log has no rows")


def _in_words(source: str, reject: Mapping[str, Any]) -> str:
    return f"{source}: line {reject['line']}: {reject['detail']}"


def _write_files(
    blob: Blob, log: InteractionLog, histories: Histories, options: Interactions
) -> dict[str, str]:
    """Write the names of users and items, the users' items, and the rejects; returns the hash of each file."""
    # Items of a later part of the split are unknown to this one, also as what a negative may not be.
    num_items = len(histories.item_keys)
    users = np.repeat(np.arange(len(histories.user_keys)), np.diff(histories.starts))
    known = np.arange(len(users)) < histories.end(options.part)[users]
    pairs = np.unique(users[known] * num_items + histories.items[known])
    offsets = np.searchsorted(pairs, np.arange(len(histories.user_keys) + 1) * num_items)
    items = pa.array((pairs % num_items).astype(np.int32))
    files = {
        ITEMS_FILE: pa.table({"item": pa.array(histories.item_keys, pa.string())}),
        USERS_FILE: pa.table(
            {
                "user": pa.array(histories.user_keys, pa.string()),
                "items": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items),
            }
        ),
    }
    hashes = {}
    for path, table in files.items():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        blob.put(path, data)
        hashes[path] = hash_of(data)
    if log.rejects:
        hashes[REJECTS] = _write_rejects(blob, log)
    return hashes


def _write_rejects(blob: Blob, log: InteractionLog) -> str:
    """Write the bad rows; returns the file's hash."""
    data = b"".join(orjson.dumps(asdict(one), option=orjson.OPT_APPEND_NEWLINE) for one in log.rejects)
    blob.put(REJECTS, data)
    return hash_of(data)
