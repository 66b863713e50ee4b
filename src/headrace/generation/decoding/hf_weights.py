"""A Hugging Face directory -> transformers' model with its weights, read without a memory map where that is possible.

transformers maps safetensors files and copies page by page: on a network disk every page fault is a round trip. Where
the names in the files are the model's own, headrace's reader fills the tensors of an uninitialised model; where
transformers renames, splits or converts weights, transformers loads them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.errors import CheckpointError, ConfigError
from headrace.model import (
    Decoder,
    TensorEntry,
    fill_tensors,
    hf_weight_files,
    read_headers,
    to_transformers,
)
from headrace.storage import LocalBlob, Progress

logger = logging.getLogger("headrace.load")


def load_transformers(
    directory: Path, config: Any, *, dtype: torch.dtype, progress: Progress | None = None
) -> Any:
    """The causal language model of a directory, on the CPU.

    Args:
        directory: config.json, and weights as safetensors.
        config: as AutoConfig reads it.
        dtype: of the parameters; the stored ones are converted while they are read.
        progress: called as progress(bytes done, bytes in all, note).

    Raises:
        CheckpointError: the weights cannot be read, or lack tensors of the model.
    """
    from transformers import AutoModelForCausalLM

    try:
        entries = read_headers(LocalBlob(directory), [path.name for path in hf_weight_files(directory)])
    except CheckpointError as error:
        entries, reason = {}, str(error)
    else:
        layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        if layers > len(entries):  # before so many are made
            raise CheckpointError(
                f"{directory}: config.json has {layers} layers, its weights {len(entries)} tensors. "
                f"Copy the model again."
            )
        model = _uninitialised(config, dtype)
        targets = _targets(model)
        reason = _difference(model, targets, entries)
        if not reason:
            fill_tensors(LocalBlob(directory), entries, targets, progress=progress)
            return model
        del model
    logger.info("%s: read by transformers, by memory map: %s", directory, reason)
    auto: Any = AutoModelForCausalLM
    with no_progress_bars():
        model, about = auto.from_pretrained(
            directory, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    if missing := sorted(about["missing_keys"]):  # transformers draws them at random
        raise CheckpointError(
            f"{directory}: its weights lack {len(missing)} tensors of the model, the first is {missing[0]}. "
            f"Copy the model again."
        )
    return model


def transformers_of_decoder(decoder: Decoder, directory: Path) -> Any:
    """Transformers' model of a decoder that was trained here, with the decoder's tensors.

    Raises:
        ConfigError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"{directory}: generating from a {decoder.config.model_type} model needs transformers. "
            f"Install headrace[hf]."
        ) from error
    content, tensors = to_transformers(decoder)
    config: Any = transformers.AutoConfig.for_model(**content)
    kind: Any = getattr(transformers, content["architectures"][0])
    dtype = next(iter(tensors.values())).dtype
    with no_progress_bars():
        return kind.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)


def _uninitialised(config: Any, dtype: torch.dtype) -> Any:
    """The model with buffers computed and parameters in fresh memory."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    auto: Any = AutoModelForCausalLM
    with no_init_weights():
        model = auto.from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def _targets(model: Any) -> dict[str, Tensor]:
    """Each tensor that a file must have, by name, in the order of the layers; tied ones once."""
    targets: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            seen.add(tensor.data_ptr())
            targets[name] = tensor.detach()
    return targets


def _difference(model: Any, targets: dict[str, Tensor], entries: dict[str, TensorEntry]) -> str:
    """Why the files' tensors are not the model's own, in words; empty where they are."""
    if getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None):
        return "some layers stay in float32"
    names = set(model.state_dict())
    if missing := sorted(targets.keys() - entries.keys()):
        return f"the files have no {missing[0]}"
    if unknown := sorted(entries.keys() - names):
        return f"the model has no {unknown[0]}"
    for name, tensor in targets.items():
        if entries[name].shape != tuple(tensor.shape):
            return f"{name} has shape {list(entries[name].shape)}, the model's has {list(tensor.shape)}"
        if not (entries[name].dtype.is_floating_point and entries[name].dtype.itemsize > 1):
            return f"{name} is {entries[name].dtype}"
    # A tied tensor that the files have as well must be the same, and transformers decides what happens if not.
    tied = sorted((entries.keys() & names) - targets.keys())
    return f"the files have {tied[0]}, which is tied to another tensor" if tied else ""


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Suppress the progress bars of transformers."""
    import transformers.utils.logging

    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
