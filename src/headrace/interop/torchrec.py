"""Ragged columns of a batch -> torchrec's KeyedJaggedTensor, whose values are the batch's own memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

INVERSE = "history_inverse"


def keyed_jagged_tensor(batch: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """A `torchrec.KeyedJaggedTensor` of columns of a batch.

    With histories that are stored once (`InteractionOptions(deduplicate=True)`) it has one row for each distinct
    history, and the batch's inverse index as its `inverse_indices`, by which torchrec gives each row its embedding.

    Args:
        batch: of `hr.Loader(store, interactions=...)`, as torch tensors.
        keys: names of ragged columns of one type. Those of the history that follow each other in the batch are viewed;
            others are copied into one tensor.

    Raises:
        ConfigError: torchrec is not installed, or a column is not there, not ragged, or of another type or length.
    """
    try:
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    except ImportError as error:
        raise ConfigError(
            "keyed_jagged_tensor: torchrec is not installed. Run: pip install torchrec, or use `jagged_values`"
        ) from error
    values, lengths = jagged_values(batch, keys)
    inverse = batch.get(INVERSE) if all(key.startswith("history") for key in keys) else None
    indices = None if inverse is None else (list(keys), inverse.expand(len(keys), -1))
    return KeyedJaggedTensor(
        keys=list(keys),
        values=values,
        lengths=lengths.reshape(-1),
        stride=lengths.shape[1],
        inverse_indices=indices,
    )


def jagged_values(batch: Mapping[str, Any], keys: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Values of all keys, one key after the other, and lengths [keys, rows]: what a KeyedJaggedTensor consists of.

    Values are a view of the batch's memory where the columns lie in it in this order.

    Raises:
        ConfigError: a column is not there, not ragged, or of another type or length.
    """
    import torch

    if not keys:
        raise ConfigError("keyed_jagged_tensor: no keys; expected names of ragged columns")
    columns = []
    for key in keys:
        column = batch.get(key)
        if not isinstance(column, tuple) or not all(isinstance(part, torch.Tensor) for part in column):
            raise ConfigError(
                f"keyed_jagged_tensor: {key!r} is no ragged column of torch tensors; the batch has: {', '.join(batch)}"
            )
        columns.append(column)
    if len({(values.dtype, len(offsets)) for values, offsets in columns}) > 1:
        shown = ", ".join(
            f"{key} {v.dtype} of {len(o) - 1} rows" for key, (v, o) in zip(keys, columns, strict=True)
        )
        raise ConfigError(
            f"keyed_jagged_tensor: columns of one type and number of rows are expected, got {shown}"
        )
    lengths = torch.stack([offsets.diff() for _, offsets in columns])
    parts = [values for values, _ in columns]
    return _joined(parts), lengths


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts one after the other: a view where they lie so in one storage, else a copy."""
    import torch

    first, storage = parts[0], parts[0].untyped_storage().data_ptr()
    begin = first.storage_offset()
    for part in parts:
        if part.dim() != 1 or part.untyped_storage().data_ptr() != storage or part.storage_offset() != begin:
            return torch.cat(list(parts))
        begin += len(part)
    return first.as_strided((begin - first.storage_offset(),), (1,))
