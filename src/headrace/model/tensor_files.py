"""Safetensors files -> tensors that exist already, by large reads in flight, in the order of the layers.

No memory map and no second copy of the weights: where the stored type and layout are the tensor's own, bytes are read
into the tensor; elsewhere a read of a few megabytes is converted into its place, and its buffer is used again.
The format, byte by byte: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import torch
from torch import Tensor

from headrace.errors import CheckpointError, StorageError
from headrace.storage import REMOTE_REQUESTS, REQUEST_BYTES, Blob, BulkReader, Progress, RangeRead, read_into

MAX_HEADER_BYTES: Final = 100_000_000
"""As the safetensors library has it."""
MAX_GAP: Final = 256 << 10
"""Bytes between two tensors that are read without need rather than by a request of their own."""
BUFFER_SHARE: Final = 32
"""Buffers take at most this fraction (1/32) of the tensors' bytes, or `MIN_BUFFER_BYTES`."""
MIN_BUFFER_BYTES: Final = 4 << 20
MIN_REQUESTS: Final = 16
"""In flight: where memory is short, requests are smaller instead."""
MIN_DIRECT_BYTES: Final = 1 << 20
"""Of a request whose bytes need no buffer, where the file is small."""
SERIAL_ELEMENTS: Final = 32_000
"""Copied by one call: torch splits more than 32,768 among OpenMP threads, and each of the reading threads would have a
team of its own."""
DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of a safetensors file, not read yet."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes [start, stop) of a tensor's own bytes."""

    name: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Its length."""
        return self.stop - self.start


def read_header(blob: Blob, file: str) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors and the metadata that the header of a safetensors file describes.

    Raises:
        CheckpointError: missing, cut, or a header that does not describe exactly the bytes behind it.
    """
    where = f"{blob.url}/{file}"
    try:
        size = blob.size(file)
        length = int.from_bytes(_read(blob, file, 0, 8), "little") if size >= 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(where, f"its header would have {length:,} bytes; the file has {size:,}")
        header: Any = orjson.loads(_read(blob, file, 8, 8 + length))
    except (FileNotFoundError, StorageError) as error:
        raise CheckpointError(f"{where}: cannot be read: {error}") from error
    except orjson.JSONDecodeError as error:
        raise _damaged(where, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(where, f"its header is a JSON {type(header).__name__}")
    metadata = header.pop("__metadata__", None) or {}
    entries = {
        name: _entry(name, value, file=file, where=where, base=8 + length) for name, value in header.items()
    }
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise _damaged(where, f"{name} begins at byte {entry.start:,}, expected {end:,}")
        end = entry.stop
    if end != size:
        raise _damaged(where, f"its tensors end at byte {end:,}, the file at {size:,}")
    return entries, metadata


def read_headers(blob: Blob, files: Iterable[str]) -> dict[str, TensorEntry]:
    """The tensors of several files.

    Raises:
        CheckpointError: see `read_header`; or a tensor is in two files.
    """
    entries: dict[str, TensorEntry] = {}
    for file in files:
        for name, entry in read_header(blob, file)[0].items():
            if name in entries:
                raise CheckpointError(
                    f"{blob.url}/{file}: {name} is there twice, also in {entries[name].file}."
                )
            entries[name] = entry
    return entries


def fill_tensors(
    blob: Blob,
    entries: Mapping[str, TensorEntry],
    targets: Mapping[str, Tensor],
    *,
    progress: Progress | None = None,
) -> None:
    """Fill tensors with those of the same names in files, converted to their types.

    Args:
        blob: has the files.
        entries: from `read_headers`.
        targets: name in the files -> the tensor to fill, or a view of it with the axes in the file's order: a
            transposed view reads a transposed matrix. Its shape may split an axis of the file's. Reads begin in
            this order.
        progress: called as progress(bytes done, bytes in all, note).

    Raises:
        CheckpointError: a tensor is missing, has another number of elements, or its bytes cannot be read.
    """
    for name, target in targets.items():
        entry = entries.get(name)
        if entry is None:
            raise CheckpointError(f"{blob.url}: no tensor named {name!r} in its weights.")
        if math.prod(entry.shape) != target.numel():
            raise CheckpointError(
                f"{blob.url}/{entry.file}: {name} has shape {list(entry.shape)}, expected {target.numel():,} elements."
            )
    nbytes = sum(target.nbytes for target in targets.values())
    if all(_is_direct(target, entries[name]) for name, target in targets.items()):
        budget = REMOTE_REQUESTS * REQUEST_BYTES  # of no buffers: it limits nothing
        request_bytes = min(REQUEST_BYTES, max(MIN_DIRECT_BYTES, nbytes // REMOTE_REQUESTS))
    else:
        budget = max(MIN_BUFFER_BYTES, nbytes // BUFFER_SHARE)
        request_bytes = min(REQUEST_BYTES, budget // MIN_REQUESTS)
    requests = _plan({name: entries[name] for name in targets}, request_bytes)
    reads = [_read_of(pieces, entries, targets) for pieces in requests]
    total = sum(piece.nbytes for pieces in requests for piece in pieces)
    reader = BulkReader(blob, max_buffer_bytes=budget, request_bytes=request_bytes)
    began, done = time.perf_counter(), 0
    try:
        for number in reader.read(reads):
            done += sum(piece.nbytes for piece in requests[number])
            if progress is not None:
                progress(done, total, reader.note(done, time.perf_counter() - began))
    except (FileNotFoundError, StorageError) as error:
        raise CheckpointError(f"{blob.url}: its weights cannot be read: {error}") from error


def _read_of(
    pieces: Sequence[_Piece], entries: Mapping[str, TensorEntry], targets: Mapping[str, Tensor]
) -> RangeRead:
    """The read of neighbouring pieces: into the tensors where all bytes are needed as they are."""
    first, last = entries[pieces[0].name], entries[pieces[-1].name]
    start, stop = first.start + pieces[0].start, last.start + pieces[-1].stop
    memory: list[memoryview] = []
    at = start
    for piece in pieces:
        entry = entries[piece.name]
        own = _memory(targets[piece.name], piece, entry)
        if own is None:
            break
        begin = entry.start + piece.start
        memory += [memoryview(bytearray(begin - at)), own]
        at = begin + piece.nbytes
    else:
        return RangeRead(name=first.file, start=start, stop=stop, into=tuple(memory))

    def use(data: memoryview) -> None:
        with torch.no_grad():
            for piece in pieces:
                entry = entries[piece.name]
                begin = entry.start + piece.start - start
                chunk = _elements(data[begin : begin + piece.nbytes], entry.dtype)
                _copy_range(targets[piece.name], piece.start // entry.dtype.itemsize, chunk)

    return RangeRead(name=first.file, start=start, stop=stop, use=use)


def tensors_equal(blob: Blob, entry: TensorEntry, tensor: Tensor) -> bool:
    """Whether a tensor of a file has the values of one in memory; read in parts, so that no second copy is made."""
    if math.prod(entry.shape) != tensor.numel():
        return False
    flat = tensor.detach().reshape(-1)
    different: list[bool] = []

    def read_of(piece: _Piece) -> RangeRead:
        def use(data: memoryview) -> None:
            chunk = _elements(data, entry.dtype)
            begin = piece.start // entry.dtype.itemsize
            if not torch.equal(flat[begin : begin + len(chunk)].cpu(), chunk.to(tensor.dtype)):
                different.append(True)

        return RangeRead(
            name=entry.file, start=entry.start + piece.start, stop=entry.start + piece.stop, use=use
        )

    request_bytes = MIN_BUFFER_BYTES // MIN_REQUESTS
    reads = [read_of(piece) for pieces in _plan({"": entry}, request_bytes) for piece in pieces]
    reader = BulkReader(blob, max_buffer_bytes=MIN_BUFFER_BYTES, request_bytes=request_bytes)
    for _ in reader.read(reads):
        if different:
            break
    return not different


def _plan(entries: Mapping[str, TensorEntry], request_bytes: int | None = None) -> list[list[_Piece]]:
    """Requests as lists of neighbouring pieces: small tensors together, large ones in parts; first tensors first.

    Args:
        entries: what is read.
        request_bytes: of a request at most; default REQUEST_BYTES.
    """
    most = request_bytes or REQUEST_BYTES
    request_bytes = most - most % 8  # whole elements
    order = {name: number for number, name in enumerate(entries)}
    requests: list[list[_Piece]] = []
    last_file, last_stop, nbytes = "", 0, 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].file, item[1].start)):
        length = entry.stop - entry.start
        for start in range(0, length, request_bytes):
            piece = _Piece(name, start, min(start + request_bytes, length))
            gap = entry.start + start - last_stop
            grown = nbytes + gap + piece.stop - piece.start
            if not requests or entry.file != last_file or gap > MAX_GAP or grown > request_bytes:
                requests.append([])
                nbytes, gap = 0, 0
            requests[-1].append(piece)
            nbytes += gap + piece.stop - piece.start
            last_file, last_stop = entry.file, entry.start + piece.stop
    return sorted(requests, key=lambda pieces: min(order[piece.name] for piece in pieces))


def _memory(target: Tensor, piece: _Piece, entry: TensorEntry) -> memoryview | None:
    """The memory of a piece in its tensor, where its bytes may be read there as they are."""
    if not _is_direct(target, entry):
        return None
    flat = target.detach().view(-1).view(torch.uint8)
    return flat[piece.start : piece.stop].numpy().data


def _is_direct(target: Tensor, entry: TensorEntry) -> bool:
    """Whether a tensor's bytes are read into it as they are."""
    return target.device.type == "cpu" and target.dtype == entry.dtype and target.is_contiguous()


def _copy_range(target: Tensor, start: int, chunk: Tensor) -> None:
    """Copy elements to a tensor's elements from `start` on, counted in the order of its axes."""
    if not len(chunk):
        return
    if target.is_contiguous() or target.ndim == 1:
        flat = target.view(-1) if target.is_contiguous() else target
        for at in range(0, len(chunk), SERIAL_ELEMENTS):
            part = chunk[at : at + SERIAL_ELEMENTS]
            flat[start + at : start + at + len(part)].copy_(part)
        return
    row = target[0].numel()
    first, offset = divmod(start, row)
    if offset or len(chunk) < row:  # the rest of a row whose beginning came with another piece
        head = min(row - offset, len(chunk))
        _copy_range(target[first], offset, chunk[:head])
        _copy_range(target, start + head, chunk[head:])
        return
    rows = len(chunk) // row
    step = max(1, SERIAL_ELEMENTS // row)
    for at in range(0, rows, step):
        few = min(step, rows - at)
        part = chunk[at * row : (at + few) * row].view(few, *target.shape[1:])
        target[first + at : first + at + few].copy_(part)
    _copy_range(target, start + rows * row, chunk[rows * row :])


def _elements(data: memoryview, dtype: torch.dtype) -> Tensor:
    """Bytes as a flat tensor of a type."""
    raw = torch.frombuffer(data, dtype=torch.uint8)
    if raw.data_ptr() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype)


def _entry(name: str, value: Any, *, file: str, where: str, base: int) -> TensorEntry:
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        numbers: Sequence[Any] = [start, stop, *shape]
        valid = all(type(number) is int and number >= 0 for number in numbers)
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(where, f"its header does not describe {name!r} ({error!r})") from error
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{where}: {name} is of type {dtype!r}; expected one of {', '.join(DTYPES)}. Convert the weights first."
        )
    if not valid or stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _damaged(where, f"{name} of shape {shape} and type {dtype} cannot have bytes {start} to {stop}")
    return TensorEntry(
        file=file, dtype=DTYPES[dtype], shape=tuple(shape), start=base + start, stop=base + stop
    )


def _read(blob: Blob, file: str, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    read_into(blob, file, start, [memoryview(buffer)])
    return bytes(buffer)


def _damaged(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: not a whole safetensors file: {why}. Copied only in part? Copy it again."
    )
