"""Frozen values that pass between rooms: documents in, batches through, predictions out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray


Bytes: TypeAlias = bytes | bytearray | memoryview
"""Anything that holds bytes and can be sliced without being read."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The name of an option on the command line, where it is not its field's name with dashes."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text on its way into a store."""

    text: bytes
    """Valid UTF-8."""
    source: str
    """Path or URL of the file it came from."""
    offset: int
    """Byte offset in the decompressed source (row number for columnar sources)."""
    meta: Mapping[str, object] = field(default_factory=dict)
    """Other columns that the user asked to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a run stands in the endless stream of rows: all the state that a loader has."""

    position: int
    """Rows of the global order taken so far, all ranks and epochs; >= 0."""
    fingerprint: str
    """16 hex digits of everything that fixes the order: stores, seq_len, seed, mixture, packing, shuffle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One generated sample; (prompt_id, sample_index) is its key, stored at most once."""

    prompt_id: str
    sample_index: int
    prompt: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    """stop | length | error."""
    logprobs: tuple[float, ...] | None = None
    """Natural log, one per generated token; None when not asked for."""
    prompt_logprobs: tuple[float | None, ...] | None = None
    """Natural log, one per prompt token, the first None; None when not asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: Mapping[str, str] | None = None
    """{"type": ..., "message": ...} when finish_reason is "error"."""


class Batch:
    """One rank's rows of one global batch. B rows, T = seq_len; the arrays are this batch's own, for ever.

    `input_ids` and `labels` are widened when they are first asked for. Where padding-free batches were asked
    for, they and the ids of documents and positions are [1, N], the pieces of documents one after the other.
    """

    __slots__ = (
        "_wide",
        "_widen",
        "cu_seqlens",
        "document_ids",
        "epoch",
        "global_rows",
        "masked",
        "num_rows",
        "position",
        "position_ids",
        "rows",
        "sources",
        "step",
        "tokens",
    )

    def __init__(
        self,
        *,
        tokens: Any,
        position: int,
        epoch: int,
        step: int,
        num_rows: int,
        global_rows: int,
        rows: NDArray[np.int64],
        sources: NDArray[np.int64] | None,
        widen: Callable[[Any], tuple[Any, Any]],
        masked: NDArray[np.bool_] | None = None,
        document_ids: Any = None,
        position_ids: Any = None,
        cu_seqlens: Any = None,
    ) -> None:
        self.tokens = tokens
        """[B, T + 1] in the stored type (uint16 or uint32), host, C order; a tensor if a device was asked."""
        self.position = position
        """Rows of the global order before this global batch."""
        self.epoch = epoch
        """Epoch of the global batch's first row."""
        self.step = step
        """Global batches of this size before this one: position // batch_size."""
        self.num_rows = num_rows
        """Rows that hold data; 0 in the filler of a rank that the run's last batch has no row for."""
        self.global_rows = global_rows
        """Rows of the global batch, over all ranks."""
        self.rows = rows
        """int64 [B]: which row of its source each row is."""
        self.sources = sources
        """int64 [B]: which store of a mixture each row is from; None for one store."""
        self.masked = masked
        """bool [B, T]: places whose label is -100; None where there is none."""
        self.document_ids = document_ids
        """int32 [B, T]: 0, 1, ... within a row, counting documents; padding is -1. None unless asked for."""
        self.position_ids = position_ids
        """int64 [B, T]: offset in its document within the row. None unless asked for."""
        self.cu_seqlens = cu_seqlens
        """int32 [pieces + 1]: where each piece of a document begins in the flattened inputs, and their number
        last. None unless asked for."""
        self._widen = widen
        self._wide: tuple[Any, Any] | None = None

    @property
    def input_ids(self) -> Any:
        """[B, T] int64, a torch tensor (a NumPy array without torch)."""
        if self._wide is None:
            self._wide = self._widen(self.tokens)
        return self._wide[0]

    @property
    def labels(self) -> Any:
        """[B, T] int64, the next token at every place; -100 where nothing is to be predicted."""
        if self._wide is None:
            self._wide = self._widen(self.tokens)
        return self._wide[1]

    def __len__(self) -> int:
        """Rows that hold data."""
        return self.num_rows

    def __repr__(self) -> str:
        """Shape and place, without the tokens."""
        return (
            f"Batch(tokens={tuple(self.tokens.shape)} {self.tokens.dtype}, position={self.position}, "
            f"epoch={self.epoch}, step={self.step})"
        )
