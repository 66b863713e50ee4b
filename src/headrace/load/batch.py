"""Tokens of one rank's rows -> a batch: a mapping that models take, with its place in the order beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Generic, cast

import numpy as np
from typing_extensions import TypeVar

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from headrace.load.indices import BatchIndex

Array = TypeVar("Array", default=Any)
"""torch.Tensor or np.ndarray; see `BatchOptions.framework`."""

Widen = Callable[[Any], tuple[Any, Any]]
"""From tokens to int64 inputs and labels."""


class Batch(MutableMapping[str, Array], Generic[Array]):
    """One rank's rows of one global batch: B rows of T = seq_len tokens. Its arrays are never written again.

    As a mapping it holds what Hugging Face models take, so that `model(**batch)` returns the loss of these labels:

        input_ids      int64 [B, T]
        labels         int64 [B, T]: the next token at each place, -100 where there is no loss, as at places whose
                       next token the store holds as given, not learned
        shift_labels   the same tensor, for models that take it: labels are already shifted (torch only)
        position_ids   int64 [B, T], where BatchOptions.position_ids asks for them
        cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k
                       documents of a padding-free batch, where BatchOptions.cu_seqlens asks for them

    `len`, iteration, `in` and `keys` are those of the mapping; the number of rows is `num_rows`. Values can be set
    and removed; to set `labels` also sets `shift_labels`. Input ids and labels are widened to int64 when one of
    them is first used. Padding-free batches hold everything as [1, N], document after document.

    `Batch({"input_ids": ...})` makes a batch of arrays that are no loader's. It, and what a map over a pytree
    returns, has no `tokens`, `rows`, `sources` and `masked`.
    """

    __slots__ = (
        "_arrays",
        "_position_ids",
        "_shift",
        "_widen",
        "cu_seqlens",
        "document_ids",
        "epoch",
        "global_rows",
        "masked",
        "max_length",
        "num_rows",
        "position",
        "rows",
        "sources",
        "step",
        "tokens",
    )

    tokens: NDArray[Any] | Array
    """[B, T + 1] in the stored type (uint16 or uint32), in host memory, C order; a tensor if a device was given."""
    position: int
    """Rows of the global order before this global batch."""
    epoch: int
    """Epoch of the global batch's first row."""
    step: int
    """Global batches of this size before this one: position // batch_size."""
    num_rows: int
    """Rows that hold data; 0 in the filler of a rank that the last batch has no row for."""
    global_rows: int
    """Rows of the global batch, over all ranks."""
    rows: NDArray[np.int64]
    """int64 [B]: number of each row in its store."""
    sources: NDArray[np.int64] | None
    """int64 [B]: which store of a mixture each row is from; None for one store."""
    masked: NDArray[np.bool_] | None
    """bool [B, T]: places whose label is -100; None where there is none."""
    document_ids: Array | None
    """int32 [B, T]: 0, 1, ... along a row, one for each document; padding is -1. None unless asked for."""
    cu_seqlens: Array | None
    """int32 [documents + 1]: where each document begins in the flattened inputs, and their number last. None unless
    asked for."""
    max_length: int | None
    """Longest document of a padding-free batch with `cu_seqlens`; else None."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays: dict[str, Any] | None = dict(arrays)
        self._widen: Widen | None = None
        self._position_ids: Array | None = None
        self._shift = False
        self.document_ids = self.cu_seqlens = self.max_length = None

    @classmethod
    def from_tokens(
        cls,
        tokens: NDArray[Any] | Array,
        index: BatchIndex,
        *,
        step: int,
        widen: Widen,
        shift: bool,
        masked: NDArray[np.bool_] | None = None,
    ) -> Self:
        """A loader's batch.

        Args:
            tokens: [B, T + 1], where the batch is delivered.
            index: which rows they are.
            step: global batches before this one.
            widen: makes input_ids and labels of the tokens, on first use.
            shift: whether `shift_labels` is one of the keys.
            masked: [B, T], places whose label is -100.
        """
        batch = cls.__new__(cls)
        batch.tokens, batch.step, batch.masked = tokens, step, masked
        batch._widen, batch._shift = widen, shift
        batch.position, batch.global_rows, batch.epoch = index.position, index.global_rows, index.epoch
        batch.rows, batch.sources, batch.num_rows = index.rows, index.sources, len(index.rows)
        batch._arrays = batch._position_ids = batch.document_ids = batch.cu_seqlens = batch.max_length = None
        return batch

    def _mapping(self) -> dict[str, Any]:
        if self._arrays is None:
            assert self._widen is not None
            inputs, labels = self._widen(self.tokens)
            arrays = {"input_ids": inputs, "labels": labels}
            if self._shift:
                arrays["shift_labels"] = labels
            if self._position_ids is not None:
                arrays["position_ids"] = self._position_ids
            if self.max_length is not None:
                arrays |= {"cu_seq_lens_q": self.cu_seqlens, "cu_seq_lens_k": self.cu_seqlens}
                arrays |= {"max_length_q": self.max_length, "max_length_k": self.max_length}
            self._arrays, self._widen = arrays, None
        return self._arrays

    @property
    def input_ids(self) -> Array:
        """[B, T] int64: the tokens without the last."""
        return cast("Array", self._mapping()["input_ids"])

    @property
    def labels(self) -> Array:
        """[B, T] int64: the next token at every place; -100 where there is no loss."""
        return cast("Array", self._mapping()["labels"])

    @property
    def position_ids(self) -> Array | None:
        """int64 [B, T]: each token's offset in its document within the row. None unless asked for."""
        return self._position_ids if self._arrays is None else self._arrays.get("position_ids")

    def set_position_ids(self, position_ids: Array) -> None:
        """Add position ids, before the ids are widened."""
        self._position_ids = position_ids

    # --- the mapping ---

    def __getitem__(self, key: str) -> Array:
        return cast("Array", self._mapping()[key])

    def __setitem__(self, key: str, value: Array) -> None:
        arrays = self._mapping()
        arrays[key] = value
        if key == "labels" and "shift_labels" in arrays:
            arrays["shift_labels"] = value

    def __delitem__(self, key: str) -> None:
        del self._mapping()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping())

    def __len__(self) -> int:
        """Number of keys, as of every mapping; see `num_rows`."""
        return len(self._mapping())

    # Two batches are equal if they are one object: arrays have no single truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # --- moved and copied ---

    def to(self, device: Any, *, non_blocking: bool = False) -> Batch[Array]:
        """The batch with its tensors on a torch device.

        `BatchOptions(device=...)` delivers there with less to copy: 2 bytes a token instead of 16.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking), what="to")

    def pin_memory(self) -> Batch[Array]:
        """The batch with its tensors in pinned memory."""
        return self._map(lambda tensor: tensor.pin_memory(), what="pin_memory")

    def _map(self, function: Callable[[Any], Any], *, what: str) -> Batch[Array]:
        """A copy whose arrays are the function's results; one call for an array that has several names."""
        done: dict[int, Any] = {}

        def once(value: Any) -> Any:
            if value is None or isinstance(value, int):
                return value
            if isinstance(value, np.ndarray):
                raise ConfigError(
                    f'Batch.{what}: the batch holds NumPy arrays. Use BatchOptions(framework="torch")'
                )
            if id(value) not in done:
                done[id(value)] = function(value)
            return done[id(value)]

        arrays = {key: once(value) for key, value in self._mapping().items()}
        copy = self.__copy__()
        copy._arrays = arrays
        copy.document_ids, copy.cu_seqlens = once(self.document_ids), once(self.cu_seqlens)
        copy._position_ids = None
        if hasattr(self, "tokens") and not isinstance(self.tokens, np.ndarray):
            copy.tokens = once(self.tokens)
        return copy

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__setstate__(self.__getstate__())
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Everything with the ids widened: what makes them of the tokens stays in this process."""
        arrays = dict(self._mapping())
        names = [name for name in self.__slots__ if name != "_arrays" and hasattr(self, name)]
        return {"_arrays": arrays, **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        """Shape and place, without the tokens."""
        tokens: Any = getattr(self, "tokens", None)
        if tokens is None:
            return f"Batch({', '.join(self)})"
        return (
            f"Batch(tokens={tuple(tokens.shape)} {tokens.dtype}, position={self.position}, "
            f"epoch={self.epoch}, step={self.step})"
        )
