"""Which rows a batch has -> the batch: tokens read, document boundaries found, labels masked."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.load.batch import Batch
from headrace.load.packing.boundaries import DocumentBoundaries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headrace.load.device import DevicePlacement
    from headrace.load.host import HostPlacement
    from headrace.load.indices import BatchIndex
    from headrace.load.options import BatchOptions
    from headrace.load.packing.rows import PackedRows
    from headrace.load.rows import ConcatenatedRows
    from headrace.stats import Stats


class BatchBuilder:
    """Makes batches of rows; holds no position, so that threads can share it."""

    def __init__(
        self,
        rows: Sequence[ConcatenatedRows | PackedRows],
        *,
        width: int,
        batch_size: int,
        dtype: np.dtype[Any],
        eos_id: int,
        placement: HostPlacement | DevicePlacement,
        options: BatchOptions[Any],
        stats: Stats,
    ) -> None:
        self._rows = rows
        self._width = width
        self._batch_size = batch_size
        self._dtype = dtype
        self._placement = placement
        self._eos_id = eos_id
        self._options = options
        self._stats = stats
        self._packed = rows[0].packing != "none"
        self._has_spans = any(one.has_spans for one in rows)
        self._needs_boundaries = self._packed or options.needs_documents
        self._plain = not self._needs_boundaries and not self._has_spans and options.label_mask is None

    def build(self, index: BatchIndex) -> tuple[Batch[Any], Any]:
        """The batch of these rows, and the event after which it is on its device (None: it is there)."""
        start = time.perf_counter()
        count = len(index.rows)
        tokens = None if index.lookup is None else index.lookup.read(index.number)
        if tokens is None:
            tokens = self._read(index)
        self._stats.add("gather", items=count, nbytes=tokens.nbytes, busy_s=time.perf_counter() - start)
        if self._plain and count:
            return self._batch(index, tokens)
        start = time.perf_counter()
        built = self._masked_batch(index, tokens)
        self._stats.add("mask", items=count, busy_s=time.perf_counter() - start)
        return built

    def _read(self, index: BatchIndex) -> NDArray[Any]:
        count = len(index.rows)
        out = self._placement.buffer(count or 1)
        if index.sources is None and count:
            return self._rows[0].read(index.rows, out)
        tokens = np.empty((count or 1, self._width), self._dtype) if out is None else out
        if index.sources is None or not count:
            tokens.fill(self._eos_id)
        else:
            for number in np.unique(index.sources):
                of_source = index.sources == number
                tokens[of_source] = self._rows[number].read(index.rows[of_source])
        return tokens

    def _batch(
        self,
        index: BatchIndex,
        tokens: NDArray[Any],
        *,
        masked: NDArray[np.bool_] | None = None,
        keep: NDArray[np.bool_] | None = None,
    ) -> tuple[Batch[Any], Any]:
        placement = self._placement
        placed, ready = placement.place(tokens)
        batch: Batch[Any] = Batch.from_tokens(
            placed,
            index,
            step=index.position // self._batch_size,
            widen=placement.widen if masked is None else partial(placement.widen, masked=masked, keep=keep),
            shift=placement.torch,
            masked=masked,
        )
        return batch, ready

    def _masked_batch(self, index: BatchIndex, tokens: NDArray[Any]) -> tuple[Batch[Any], Any]:
        options = self._options
        masked = np.zeros((len(tokens), self._width - 1), np.bool_)
        if self._has_spans and len(index.rows):
            masked = ~self._learned(index)[:, 1:]
        if options.label_mask is not None:
            masked = masked | self._label_mask(tokens)
        if not self._needs_boundaries and len(index.rows):
            return self._batch(index, tokens, masked=masked if masked.any() else None)
        boundaries = self._boundaries(index, tokens)
        if self._packed or options.mask_document_starts:
            masked = masked | boundaries.without_target
        else:
            masked = masked | boundaries.padding[:, 1:]
        if options.padding_free:
            return self._padding_free_batch(index, tokens, boundaries, masked)
        batch, ready = self._batch(index, tokens, masked=masked if masked.any() else None)
        if options.document_ids:
            batch.document_ids = self._placement.array(boundaries.document_ids())
        if options.position_ids:
            batch.set_position_ids(self._placement.array(boundaries.position_ids()))
        if options.cu_seqlens:
            batch.cu_seqlens = self._placement.array(boundaries.cu_seqlens())
        return batch, ready

    def _learned(self, index: BatchIndex) -> NDArray[np.bool_]:
        """Which tokens are learned, [B, T + 1]."""
        if index.sources is None:
            return self._rows[0].learned(index.rows)
        learned = np.ones((len(index.rows), self._width), np.bool_)
        for number in np.unique(index.sources):
            if self._rows[number].has_spans:
                of_source = index.sources == number
                learned[of_source] = self._rows[number].learned(index.rows[of_source])
        return learned

    def _label_mask(self, tokens: NDArray[Any]) -> NDArray[np.bool_]:
        assert self._options.label_mask is not None
        mask = self._options.label_mask(tokens)
        expected = len(tokens), self._width - 1
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != expected:
            got = (
                f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            )
            raise ConfigError(
                f"label_mask returned {got}, expected a NumPy array of bool and shape {expected}: True at each place "
                "[B, T] whose label is not to be learnt"
            )
        return mask

    def _padding_free_batch(
        self,
        index: BatchIndex,
        tokens: NDArray[Any],
        boundaries: DocumentBoundaries,
        masked: NDArray[np.bool_],
    ) -> tuple[Batch[Any], Any]:
        # Of a packed row, only places that have a target within their document; of a concatenated row, all.
        keep = ~(boundaries.without_target if self._packed else boundaries.padding[:, 1:])
        if not keep.any():
            keep = keep.copy()
            keep[0, 0] = True  # a filler row: one place, whose label is masked
        # A document of L tokens has L - 1 places, so the first of each is kept.
        begins = np.flatnonzero(boundaries.starts[:, :-1][keep])
        cu_seqlens = np.append(begins, int(keep.sum())).astype(np.int32)
        lengths = np.diff(cu_seqlens)
        batch, ready = self._batch(index, tokens, masked=masked, keep=keep)
        batch.cu_seqlens = self._placement.array(cu_seqlens)
        batch.max_length = int(lengths.max())
        if self._options.position_ids:
            batch.set_position_ids(self._placement.array(boundaries.position_ids()[keep][None]))
        if self._options.document_ids:
            ids = np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
            batch.document_ids = self._placement.array(ids[None])
        return batch, ready

    def _boundaries(self, index: BatchIndex, tokens: NDArray[Any]) -> DocumentBoundaries:
        if len(index.rows) == 0:
            starts = np.zeros(tokens.shape, np.bool_)
            starts[:, 0] = True
            return DocumentBoundaries(starts=starts, used=np.zeros(1, np.int64))
        if index.sources is None:
            return self._rows[0].boundaries(index.rows, tokens)
        starts = np.empty(tokens.shape, np.bool_)
        used = np.empty(len(tokens), np.int64)
        for number in np.unique(index.sources):
            of_source = index.sources == number
            part = self._rows[number].boundaries(index.rows[of_source], tokens[of_source])
            starts[of_source], used[of_source] = part.starts, part.used
        return DocumentBoundaries(starts=starts, used=used)
