"""A store's documents -> a packing plan: which pieces make up which row, as an Arrow file that is mapped.

A document that is longer than a row is cut into pieces; neighbours share one token, so that every token but a
document's first is the target of exactly one place. Pieces are packed by best fit, one region of the stream after
the other: the `region_rows` fullest rows of a region are kept, and the pieces of its other rows are packed with the
next region. Rows are nearly full, the rows of a region lie near each other in the store, and memory does not grow
with the store.

The file has record batches of `rows_per_batch` rows, columns

    starts   list<int64>   position in the store's stream of each piece's first token
    lengths  list<int32>   tokens of each piece; 2 to seq_len + 1

and the schema's metadata names the store and the row length; each record batch's metadata holds the xxh3 of its
columns. Row r is in record batch r // rows_per_batch.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import xxhash

from headrace.errors import ConfigError, ShardError
from headrace.load.packing.best_fit import best_fit
from headrace.platform import process_exists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from headrace.store import Store

PLAN_VERSION = 1
REGION_TOKENS = 4 << 20
"""Tokens that are packed together: with rows of 2,048 tokens 99.9 % of the places are filled."""

_SCHEMA = pa.schema([("starts", pa.list_(pa.int64())), ("lengths", pa.list_(pa.int32()))])


def region_rows(seq_len: int) -> int:
    """Rows that are packed together, and form one record batch of a plan."""
    return min(4096, max(128, REGION_TOKENS // (seq_len + 1)))


def plan_name(store: Store, seq_len: int) -> str:
    """The file's name, which names row length, content of the store, and version of the method."""
    return f"{seq_len}-{store.fingerprint}-v{PLAN_VERSION}.arrow"


def write_plan(store: Store, seq_len: int, path: Path) -> None:
    """Compute the packing plan of a store and write it; the file appears complete or not at all.

    Processes that write the same plan at the same time write the same bytes, and the last rename wins.

    Raises:
        ConfigError: the store holds no document of two tokens, or the directory cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        staged = path.with_name(
            f".{path.name}.{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}.tmp"
        )
        try:
            rows = _write(store, seq_len, staged)
            if rows:
                staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        _sync(path.parent)
    except (PermissionError, OSError) as error:
        raise ConfigError(
            f"{path.parent}: a packing plan cannot be written here ({error}). Give "
            "reading=ReadOptions(packing_dir=...), a directory that can be written to and is kept"
        ) from error
    if rows == 0:
        raise ConfigError(
            f"{store.url}: no document of at least two tokens, so packing has no row. Ingest more text"
        )


class PackingPlan:
    """A memory-mapped packing plan: pieces of any row in O(1); a region's checksum is verified on its first use."""

    def __init__(self, path: Path, *, store: Store, seq_len: int) -> None:
        self._path = path
        self._capacity = seq_len + 1
        self._num_tokens = store.num_tokens
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            got = json.loads((self._file.schema.metadata or {}).get(b"headrace", b"{}"))
            expected = _description(store, seq_len)
            if got != expected or self._file.schema.remove_metadata() != _SCHEMA.remove_metadata():
                raise ShardError(f"{path}: a packing plan of {got}, expected {expected}. {_CURE}")
            self._rows_per_batch = region_rows(seq_len)
            batches = self._file.num_record_batches
            last = self._file.get_batch(batches - 1).num_rows if batches else 0
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise ShardError(f"{path}: not a packing plan: {error}. {_CURE}") from error
        self.num_rows = (batches - 1) * self._rows_per_batch + last if batches else 0
        """Rows of the plan."""
        self._regions: dict[int, tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]] = {}

    def pieces(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The pieces of documents that make up rows, row after row.

        Args:
            rows: int64 [B], in [0, num_rows).

        Returns:
            starts int64 [P] in the stream, lengths int64 [P], counts int64 [B] of pieces in each row.

        Raises:
            ShardError: the plan is damaged.
        """
        batches, inside = np.divmod(rows, self._rows_per_batch)
        starts, lengths, counts = [], [], np.empty(len(rows), np.int64)
        for number, (batch, row) in enumerate(zip(batches.tolist(), inside.tolist(), strict=True)):
            region = self._regions.get(batch) or self._region(batch)
            begin, end = region[2][row], region[2][row + 1]
            starts.append(region[0][begin:end])
            lengths.append(region[1][begin:end])
            counts[number] = end - begin
        if not starts:
            return np.empty(0, np.int64), np.empty(0, np.int64), counts
        return np.concatenate(starts), np.concatenate(lengths).astype(np.int64), counts

    def _region(self, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        try:
            columns, metadata = self._file.get_batch_with_custom_metadata(batch)
            columns.validate()
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
            raise ShardError(f"{self._path}: region {batch}: {error}. {_CURE}") from error
        starts, lengths = columns.column(0).values.to_numpy(), columns.column(1).values.to_numpy()
        offsets = columns.column(0).offsets.to_numpy()
        got, expected = _checksum(starts, lengths, offsets), (metadata or {}).get(b"xxh3", b"none")
        if got != expected:
            raise ShardError(f"{self._path}: region {batch}: xxh3 {got!r}, expected {expected!r}. {_CURE}")
        self._regions[batch] = starts, lengths, offsets
        return self._regions[batch]


_CURE = "Remove the file: the next loader writes it again"


def _description(store: Store, seq_len: int) -> dict[str, object]:
    return {
        "plan": PLAN_VERSION,
        "store": store.fingerprint,
        "seq_len": seq_len,
        "rows_per_batch": region_rows(seq_len),
    }


def _checksum(starts: NDArray[np.int64], lengths: NDArray[np.int32], offsets: NDArray[np.int32]) -> bytes:
    digest = xxhash.xxh3_64()
    for column in (starts, lengths, offsets):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest().encode()


def _write(store: Store, seq_len: int, path: Path) -> int:
    rows = 0
    schema = _SCHEMA.with_metadata({"headrace": json.dumps(_description(store, seq_len))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for starts, lengths, offsets in _regions(store, seq_len):
            ends = pa.array(offsets)
            lists = [pa.ListArray.from_arrays(ends, pa.array(column)) for column in (starts, lengths)]
            checksum = {"xxh3": _checksum(starts, lengths, offsets)}
            writer.write_batch(pa.record_batch(lists, schema=schema), custom_metadata=checksum)
            rows += len(offsets) - 1
    _sync(path)
    return rows


def _remove_stale(path: Path) -> None:
    """Remove temporary files of writers on this machine that no longer run."""
    begin = f".{path.name}.{socket.gethostname()}-"
    for stale in path.parent.glob(f"{begin}*.tmp"):
        pid = stale.name.removeprefix(begin).split("-")[0]
        if pid.isdecimal() and not process_exists(int(pid)):
            stale.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _regions(
    store: Store, seq_len: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]]:
    """For each region the pieces of its rows: starts, lengths, and the index of each row's first piece."""
    capacity, most = seq_len + 1, region_rows(seq_len)
    starts, lengths = np.empty(0, np.int64), np.empty(0, np.int64)
    read = 0
    while read < store.num_tokens or lengths.size:
        while read < store.num_tokens and int(lengths.sum()) < most * capacity:
            step = max(REGION_TOKENS, most * capacity)
            more_starts, more_lengths, read = _pieces(
                store, read, min(read + step, store.num_tokens), seq_len
            )
            starts, lengths = np.append(starts, more_starts), np.append(lengths, more_lengths)
        rows = best_fit(lengths.tolist(), capacity)
        if read < store.num_tokens or len(rows) > most:
            filled = [int(lengths[row].sum()) for row in rows]
            fullest = sorted(range(len(rows)), key=lambda row: -filled[row])[:most]
            rows = [rows[row] for row in fullest]
        if not rows:
            return
        # Rows and their pieces in the stream's order, so that reads go forward; packing does not depend on it.
        rows = sorted(sorted(row) for row in rows)
        order = np.concatenate([np.array(row, np.int64) for row in rows])
        offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        yield starts[order], lengths[order].astype(np.int32), offsets
        left = np.ones(lengths.size, np.bool_)
        left[order] = False
        starts, lengths = starts[left], lengths[left]


def _pieces(
    store: Store, begin: int, end: int, seq_len: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Pieces of the documents that end in (begin, end], and the last end; a document begins at `begin`."""
    ends = store.document_ends(begin, end)
    while ends.size == 0 and end < store.num_tokens:
        end = min(2 * end - begin, store.num_tokens)  # one document longer than the range
        ends = store.document_ends(begin, end)
    if end == store.num_tokens and (ends.size == 0 or int(ends[-1]) < end):
        ends = np.append(ends, end)  # a last document without an end
    firsts = np.concatenate(([begin], ends[:-1])).astype(np.int64)
    sizes = ends - firsts
    # A document of L tokens has L - 1 targets, seq_len to a piece.
    counts = -(-(sizes - 1) // seq_len)
    document = np.repeat(np.arange(sizes.size), counts)
    number = np.arange(document.size) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = firsts[document] + number * seq_len
    lengths = np.minimum(seq_len + 1, ends[document] - starts)
    return starts, lengths, int(ends[-1])
