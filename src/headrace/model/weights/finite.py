"""Tensors by name -> nothing, or an error that names those with values that are no numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.model.families import Model
from headrace.model.gpt.gpt2_format import gpt2_name
from headrace.model.llama.decoder import Decoder
from headrace.model.llama.decoder_tensors import decoder_tensor_name

_AT_ONCE = 1 << 22


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Refuse tensors with a NaN or an infinity: whatever is computed with them is no number either.

    Args:
        tensors: of any floating type, by the names that a reader knows them by.
        source: where they come from, for the message.

    Raises:
        CheckpointError: names the first of them, the value and its place.
    """
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if not bad:
        return
    tensor = tensors[bad[0]]
    place = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    others = f", and {len(bad) - 1} more tensors have such values" if len(bad) > 1 else ""
    raise CheckpointError(
        f"{source}: {bad[0]} holds {float(tensor[tuple(place)])} at {place}, which is no finite number{others}. "
        f"Its training diverged, a conversion to a narrower type overflowed, or a copy is damaged: take an earlier "
        f"checkpoint, or convert or fetch the weights again."
    )


def check_finite_model(model: Model, source: object) -> None:
    """Refuse a model with such weights, by the names that they have in a Hugging Face directory.

    Raises:
        CheckpointError: see `check_finite`.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if isinstance(model, Decoder):
        config = model.config
        check_finite({decoder_tensor_name(name, config): one for name, one in parameters.items()}, source)
    else:
        check_finite({gpt2_name(name): one for name, one in parameters.items()}, source)


def _is_finite(tensor: Tensor) -> bool:
    # In parts: a table of booleans of a whole embedding would be a quarter of its memory.
    flat = tensor.reshape(-1)
    return all(
        bool(torch.isfinite(flat[start : start + _AT_ONCE]).all()) for start in range(0, len(flat), _AT_ONCE)
    )
