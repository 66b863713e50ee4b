"""OUT, as typed -> the place where a store is made, locked against other jobs, and checked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from headrace.errors import ConfigError, SpaceError
from headrace.ingestion.job.lock import in_turn, one_of_many, only_writer
from headrace.ingestion.units.journal import LOCK, ROOT, UnitJournal
from headrace.ingestion.units.share import Share
from headrace.storage import Blob, LocalBlob, open_blob, storage_error
from headrace.store import MANIFEST, current_manifest, has_manifest, token_dtype
from headrace.tokens import Tokenizer

BLOCK_BYTES = 256 << 10
"""Tokens in a block, unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a store is made, and its validation store if there is one."""

    store: Blob
    validation: Blob | None = None


def block_tokens_for(blob: Blob, tokenizer: Tokenizer) -> int:
    """Tokens in a block: the store's own, else 256 KiB of them (64 Ki tokens of 2 bytes made stores 3 % larger)."""
    manifest = current_manifest(blob)
    return (
        BLOCK_BYTES // token_dtype(tokenizer.vocab_size).itemsize
        if manifest is None
        else manifest.block_tokens
    )


@contextmanager
def open_destination(
    out: str | os.PathLike[str],
    validation_out: str | os.PathLike[str] | None,
    *,
    restart: bool,
    share: Share | None = None,
) -> Iterator[Destination]:
    """Lock the place of a store for one job; a full device is one clear line.

    Args:
        out: the store.
        validation_out: the validation store.
        restart: delete a store or a half-done job that is there.
        share: of the job; other shares may run at the same time, and this one may not.

    Raises:
        ConfigError: a file, a directory of something else, or another job is writing there.
        SpaceError: the block ran out of space on the device.
        StorageError: the block met another error of the device or its file system.
    """
    blob = open_blob(out, name="ingest: out")
    validation = None if validation_out is None else open_blob(validation_out, name="ingest: validation_out")
    blobs = [blob] if validation is None else [blob, validation]
    for one in blobs:
        if isinstance(one, LocalBlob) and one.root.exists() and not one.root.is_dir():
            raise ConfigError(f"{one.root}: is a file; expected a directory, new or empty or a store")
    with ExitStack() as stack:
        stack.enter_context(_write_errors(blob))
        for one in blobs:
            stack.enter_context(_locked(one, share))
        for one in reversed(blobs):
            if restart:
                _delete_store(one)
            _check_place(one)
        yield Destination(store=blob, validation=validation)


@contextmanager
def _locked(blob: Blob, share: Share | None) -> Iterator[None]:
    """Hold the locks of a local place; object stores have none."""
    if not isinstance(blob, LocalBlob):
        yield
    elif share is None or share.index is None:
        with only_writer(blob.root / LOCK):
            yield
    else:
        own = blob.root / f"{LOCK}-{share.index}-of-{share.count}"
        with one_of_many(blob.root / LOCK), only_writer(own, what=f"share {share} is running"):
            yield


def share_in_turn(blob: Blob) -> AbstractContextManager[None]:
    """For what one share of a job does for all: begin it, and mark duplicates. The others wait."""
    return in_turn(blob.root / f"{LOCK}-begin") if isinstance(blob, LocalBlob) else nullcontext()


@contextmanager
def _write_errors(blob: Blob) -> Iterator[None]:
    """Raise our error, with path and cure, in place of an OSError."""
    try:
        yield
    except OSError as error:
        path, kept = error.filename or blob.url, "What is done is kept: run the same command again."
        if error.errno == errno.EFBIG:
            raise SpaceError(f"{path}: a file would be larger than is allowed (ulimit -f). {kept}") from error
        raise storage_error(error, path, kept=kept) from error


def _delete_store(blob: Blob) -> None:
    """Delete a store or a half-done one, its manifest first."""
    if not has_manifest(blob) and not UnitJournal(blob).has_job():
        return
    blob.delete(MANIFEST)
    UnitJournal(blob).clear()
    for name in blob.list():
        if not name.startswith(f"{ROOT}/"):
            blob.delete(name)


def _check_place(blob: Blob) -> None:
    """Refuse to write among files that are no store.

    Raises:
        ConfigError: the place is not empty, and neither a store nor a half-done one.
    """
    others = [name for name in blob.list() if not name.startswith((f"{ROOT}/", "data/"))]
    if others and not has_manifest(blob) and not UnitJournal(blob).has_job():
        raise ConfigError(
            f"{blob.url}: not empty, and not a store: it holds {', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}. Give an empty or new directory"
        )
