"""A store's documents -> a packing plan: which pieces make up which row, as an Arrow file that is mapped.

Documents are cut where they are longer than a row; a cut repeats one token, so that every token but a
document's first is the target of exactly one place. Pieces are packed by best fit, a region of the stream at
a time: of each region the `REGION_ROWS`-or-so fullest rows are kept and the pieces of the rest go on to the
next, so that rows are nearly full, a region's rows lie near each other in the store, and memory does not grow
with the store.

The file has record batches of `rows_per_batch` rows, columns

    starts   list<int64>   position in the store's stream of each piece's first token
    lengths  list<int32>   tokens of each piece; 2 to seq_len + 1

and the schema's metadata says what it was made of; each batch's metadata holds the xxh3 of its columns. Row r
stands in batch r // rows_per_batch.
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from headrace.store import Store

PLAN_VERSION = 1
REGION_TOKENS = 4 << 20
"""Tokens that are packed together: at 2,048 tokens a row 99.9 % of the places are filled."""

_SCHEMA = pa.schema([("starts", pa.list_(pa.int64())), ("lengths", pa.list_(pa.int32()))])


def region_rows(seq_len: int) -> int:
    """Rows that are packed together, and stand together in a plan."""
    return min(4096, max(128, REGION_TOKENS // (seq_len + 1)))


def plan_name(store: Store, seq_len: int) -> str:
    """The file's name; another snapshot, length or version of the method has another."""
    return f"{seq_len}-{store.fingerprint}-v{PLAN_VERSION}.arrow"


def write_plan(store: Store, seq_len: int, path: Path) -> None:
    """Plan the packing of a store and write it, complete or not at all.

    Deterministic: processes that write it at the same time write the same bytes, and the last rename wins.

    Raises:
        ConfigError: the store holds no document of two tokens, or the directory cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path)
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
            f"{path.parent}: a packing plan cannot be written here ({error}). Give packing_dir=, a directory "
            "that can be written to and that stays"
        ) from error
    if rows == 0:
        raise ConfigError(
            f"{store.url}: no document of at least two tokens, so packing has no row. Ingest more text"
        )


class Plan:
    """A packing plan, mapped: pieces of any row in O(1), each region checked when it is first used."""

    def __init__(self, path: Path, *, store: Store, seq_len: int) -> None:
        self._path = path
        self._capacity = seq_len + 1
        self._num_tokens = store.num_tokens
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            said = json.loads((self._file.schema.metadata or {}).get(b"headrace", b"{}"))
            wanted = _description(store, seq_len)
            if said != wanted or self._file.schema.remove_metadata() != _SCHEMA.remove_metadata():
                raise ShardError(f"{path}: a plan of {said}, wanted {wanted}. {_CURE}")
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
        """The pieces of rows, one after the other.

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
        got, want = _checksum(starts, lengths, offsets), (metadata or {}).get(b"xxh3", b"none")
        if got != want:
            raise ShardError(
                f"{self._path}: region {batch}: xxh3 {got!r}, its metadata says {want!r}. " + _CURE
            )
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


def _remove_left_over(path: Path) -> None:
    """Files that a killed writer of this machine left."""
    begin = f".{path.name}.{socket.gethostname()}-"
    for stale in path.parent.glob(f"{begin}*.tmp"):
        pid = stale.name.removeprefix(begin).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
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
    """Pieces of each region's rows: starts, lengths, and where each row begins among them."""
    capacity, wanted = seq_len + 1, region_rows(seq_len)
    starts, lengths = np.empty(0, np.int64), np.empty(0, np.int64)
    read = 0
    while read < store.num_tokens or lengths.size:
        while read < store.num_tokens and int(lengths.sum()) < wanted * capacity:
            step = max(REGION_TOKENS, wanted * capacity)
            more_starts, more_lengths, read = _pieces(
                store, read, min(read + step, store.num_tokens), seq_len
            )
            starts, lengths = np.append(starts, more_starts), np.append(lengths, more_lengths)
        rows = best_fit(lengths.tolist(), capacity)
        if read < store.num_tokens or len(rows) > wanted:
            filled = [int(lengths[row].sum()) for row in rows]
            fullest = sorted(range(len(rows)), key=lambda row: -filled[row])[:wanted]
            rows = [rows[row] for row in fullest]
        if not rows:
            return
        # Rows and their pieces in the stream's order: it does not matter to packing, and reads go forward.
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
    """Pieces of the documents that end in (begin, end]; `begin` is where a document begins."""
    ends = store.document_ends(begin, end)
    while ends.size == 0 and end < store.num_tokens:
        end = min(2 * end - begin, store.num_tokens)  # one document longer than the stretch
        ends = store.document_ends(begin, end)
    if end == store.num_tokens and (ends.size == 0 or int(ends[-1]) < end):
        ends = np.append(ends, end)  # a last document without an end
    firsts = np.concatenate(([begin], ends[:-1])).astype(np.int64)
    sizes = ends - firsts
    # A document of L tokens has L - 1 targets, seq_len to a piece.
    counts = -(-(sizes - 1) // seq_len)
    owner = np.repeat(np.arange(sizes.size), counts)
    number = np.arange(owner.size) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = firsts[owner] + number * seq_len
    lengths = np.minimum(seq_len + 1, ends[owner] - starts)
    return starts, lengths, int(ends[-1])
