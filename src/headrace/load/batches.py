"""The rows of one batch -> the batch: tokens read, masks made, ids widened when they are asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.load.packing.segments import Segments
from headrace.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from headrace.load.device import DevicePlace
    from headrace.load.host import HostPlace
    from headrace.load.indices import BatchIndex
    from headrace.load.packing.rows import PackedRows
    from headrace.load.rows import ConcatenatedRows
    from headrace.stats import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a batch carries beside its tokens."""

    document_ids: bool = False
    position_ids: bool = False
    cu_seqlens: bool = False
    padding_free: bool = False
    mask_document_starts: bool = False
    label_mask: Callable[[NDArray[Any]], NDArray[np.bool_]] | None = None

    @property
    def segments(self) -> bool:
        """Whether the pieces of documents must be known."""
        return (
            self.document_ids
            or self.position_ids
            or self.cu_seqlens
            or self.padding_free
            or self.mask_document_starts
        )


class BatchMaker:
    """Makes batches; knows nothing of where the loader stands, so that threads can share it."""

    def __init__(
        self,
        rows: Sequence[ConcatenatedRows | PackedRows],
        *,
        width: int,
        batch_size: int,
        dtype: np.dtype[Any],
        eos_id: int,
        place: HostPlace | DevicePlace,
        wanted: Wanted,
        stats: Stats,
    ) -> None:
        self._rows = rows
        self._width = width
        self._batch_size = batch_size
        self._dtype = dtype
        self._place = place
        self._eos_id = eos_id
        self._wanted = wanted
        self._stats = stats
        self._packed = rows[0].packing != "none"
        self._plain = not self._packed and not wanted.segments and wanted.label_mask is None

    def make(self, index: BatchIndex) -> tuple[Batch, Any]:
        """The batch of these rows, and what its place must hear of when it is taken (None on the host)."""
        start = time.perf_counter()
        count = len(index.rows)
        tokens = None if index.found is None else index.found.read(index.number)
        if tokens is None:
            tokens = self._read(index)
        self._stats.add("gather", items=count, nbytes=tokens.nbytes, busy_s=time.perf_counter() - start)
        if self._plain and count:
            return self._batch(index, tokens)
        start = time.perf_counter()
        made = self._with_segments(index, tokens)
        self._stats.add("mask", items=count, busy_s=time.perf_counter() - start)
        return made

    def _read(self, index: BatchIndex) -> NDArray[Any]:
        count = len(index.rows)
        out = self._place.buffer(count or 1)
        if index.sources is None and count:
            return self._rows[0].read(index.rows, out)
        tokens = np.empty((count or 1, self._width), self._dtype) if out is None else out
        if index.sources is None or not count:
            tokens.fill(self._eos_id)
        else:
            self._read_mixed(index.rows, index.sources, tokens)
        return tokens

    def _batch(
        self,
        index: BatchIndex,
        tokens: NDArray[Any],
        *,
        masked: NDArray[np.bool_] | None = None,
        keep: NDArray[np.bool_] | None = None,
        **extra: Any,
    ) -> tuple[Batch, Any]:
        place = self._place
        placed, ready = place.place(tokens)
        batch = Batch(
            tokens=placed,
            position=index.position,
            epoch=index.epoch,
            step=index.position // self._batch_size,
            num_rows=len(index.rows),
            global_rows=index.global_rows,
            rows=index.rows,
            sources=index.sources,
            masked=masked,
            widen=place.widen if masked is None else partial(place.widen, masked=masked, keep=keep),
        )
        for name, values in extra.items():
            setattr(batch, name, place.array(values))
        return batch, ready

    def _with_segments(self, index: BatchIndex, tokens: NDArray[Any]) -> tuple[Batch, Any]:
        wanted = self._wanted
        found = self._segments(index, tokens)
        masked = found.padding[:, 1:]
        if self._packed or wanted.mask_document_starts:
            masked = found.without_target
        if wanted.label_mask is not None:
            masked = masked | wanted.label_mask(tokens)
        extra: dict[str, Any] = {}
        if wanted.padding_free:
            return self._flattened(index, tokens, found, masked)
        if wanted.document_ids:
            extra["document_ids"] = found.document_ids()
        if wanted.position_ids:
            extra["position_ids"] = found.position_ids()
        if wanted.cu_seqlens:
            extra["cu_seqlens"] = found.cu_seqlens()
        return self._batch(index, tokens, masked=masked if masked.any() else None, **extra)

    def _flattened(
        self, index: BatchIndex, tokens: NDArray[Any], found: Segments, masked: NDArray[np.bool_]
    ) -> tuple[Batch, Any]:
        # Of a packed row, only places that have a target within their document; of a concatenated one, all.
        keep = ~(found.without_target if self._packed else found.padding[:, 1:])
        if not keep.any():
            keep = keep.copy()
            keep[0, 0] = True  # a filler: one place, and its label is masked
        # A piece of L tokens has L - 1 places, so all begins are kept.
        begins = np.flatnonzero(found.starts[:, :-1][keep])
        cu_seqlens = np.append(begins, int(keep.sum())).astype(np.int32)
        extra: dict[str, Any] = {"cu_seqlens": cu_seqlens}
        if self._wanted.position_ids:
            extra["position_ids"] = found.position_ids()[keep][None]
        if self._wanted.document_ids:
            lengths = np.diff(cu_seqlens)
            ids = np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
            extra["document_ids"] = ids[None]
        return self._batch(index, tokens, masked=masked, keep=keep, **extra)

    def _segments(self, index: BatchIndex, tokens: NDArray[Any]) -> Segments:
        if len(index.rows) == 0:
            starts = np.zeros(tokens.shape, np.bool_)
            starts[:, 0] = True
            return Segments(starts=starts, used=np.zeros(1, np.int64))
        if index.sources is None:
            return self._rows[0].segments(index.rows, tokens)
        starts = np.empty(tokens.shape, np.bool_)
        used = np.empty(len(tokens), np.int64)
        for number in np.unique(index.sources):
            chosen = index.sources == number
            part = self._rows[number].segments(index.rows[chosen], tokens[chosen])
            starts[chosen], used[chosen] = part.starts, part.used
        return Segments(starts=starts, used=used)

    def _read_mixed(self, rows: NDArray[np.int64], sources: NDArray[np.int64], out: NDArray[Any]) -> None:
        for number in np.unique(sources):
            chosen = sources == number
            out[chosen] = self._rows[number].read(rows[chosen])
