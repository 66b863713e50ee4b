"""An open store -> Megatron's PREFIX.bin and PREFIX.idx, one sequence a document; see `source` for the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from headrace.errors import ConfigError
from headrace.paths import local_path
from headrace.storage import disk_errors, fsync_directory, make_directory
from headrace.store.megatron.source import HEADER, MAGIC
from headrace.store.store import Store

_CHUNK_TOKENS: Final = 4 << 20


def export_megatron(
    store: Store,
    prefix: str | os.PathLike[str],
    *,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> tuple[Path, Path]:
    """Write a store as PREFIX.bin and PREFIX.idx, one sequence a document, in constant memory.

    Args:
        store: an open store.
        prefix: local path without suffix; existing files are replaced, the .idx last.
        progress: called with (tokens written, tokens in all, note).

    Returns:
        The paths of .bin and .idx.

    Raises:
        ConfigError: ids or a document do not fit Megatron's types, or some tokens are not learned.
        SpaceError: the device is full.
    """
    target = local_path(prefix, name="export to Megatron: prefix")
    folder, name = target.parent, target.name
    code, dtype = (8, np.dtype("<u2")) if store.dtype == np.uint16 else (4, np.dtype("<i4"))
    if code == 4 and store.vocab_size > 1 << 31:
        raise ConfigError(
            f"{store.url}: ids up to {store.vocab_size - 1}, Megatron's int32 holds up to 2**31 - 1"
        )
    _check_all_learned(store)
    bin_path, idx_path = folder / f"{name}.bin", folder / f"{name}.idx"
    with disk_errors(bin_path):
        make_directory(folder)
        temporary = folder / f".{name}.bin.tmp"
        with temporary.open("wb") as file:
            for start in range(0, store.num_tokens, _CHUNK_TOKENS):
                stop = min(start + _CHUNK_TOKENS, store.num_tokens)
                file.write(store.read(start, stop).astype(dtype, copy=False).tobytes())
                if progress is not None:
                    progress(stop, store.num_tokens, bin_path.name)
            file.flush()
            os.fsync(file.fileno())
        index = folder / f".{name}.idx.tmp"
        _write_index(store, index, code, dtype.itemsize)
        temporary.replace(bin_path)
        index.replace(idx_path)
        fsync_directory(folder)
    return bin_path, idx_path


def _check_all_learned(store: Store) -> None:
    for start in range(0, store.num_tokens, _CHUNK_TOKENS) if store.has_spans else ():
        if not store.learned([start], min(_CHUNK_TOKENS, store.num_tokens - start)).all():
            raise ConfigError(
                f"{store.url}: some tokens are given, not learned, and Megatron's files cannot say which. Ingest "
                "with --learn all for a store in which every token is learned"
            )


def _write_index(store: Store, path: Path, code: int, itemsize: int) -> None:
    shards = [(int(low), int(high)) for low, high in pairwise(store.token_starts)]
    documents = sum(len(store.document_ends(low, high)) for low, high in shards)
    # Tokens after the last document end are a document too.
    documents += 1 - len(store.document_ends(store.num_tokens - 1, store.num_tokens))
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, 1, code, documents, documents + 1))
        start, done = 0, 0
        for low, high in [*shards, (store.num_tokens, store.num_tokens)]:
            ends = store.document_ends(low, high)
            if low == high and done < documents:
                ends = np.array([high])
            lengths = np.diff(ends, prepend=start)
            if len(lengths) and int(lengths.max()) >= 1 << 31:
                raise ConfigError(
                    f"{store.url}: a document of {lengths.max()} tokens, Megatron holds up to 2**31 - 1"
                )
            file.seek(HEADER.size + 4 * done)
            file.write(lengths.astype("<i4").tobytes())
            file.seek(HEADER.size + 4 * documents + 8 * done)
            file.write(((ends - lengths) * itemsize).astype("<i8").tobytes())
            start, done = (int(ends[-1]) if len(ends) else start), done + len(ends)
        file.seek(HEADER.size + 12 * documents)
        for low in range(0, documents + 1, _CHUNK_TOKENS):
            file.write(np.arange(low, min(low + _CHUNK_TOKENS, documents + 1), dtype="<i8").tobytes())
        file.flush()
        os.fsync(file.fileno())
