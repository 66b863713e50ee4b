"""A shape of either family -> its model, and JSON -> a shape: GPT-3's decoder, or Llama's family."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from torch import nn

from headrace.errors import CheckpointError, ConfigError
from headrace.model.gpt.gpt import GPT, GPTConfig
from headrace.model.llama.decoder import Decoder
from headrace.model.llama.decoder_config import DecoderConfig

ModelConfig: TypeAlias = GPTConfig | DecoderConfig
Model: TypeAlias = GPT | Decoder


def build_model(config: ModelConfig, *, seed: int = 0) -> Model:
    """The model of a shape, with its first weights."""
    return GPT(config, seed=seed) if isinstance(config, GPTConfig) else Decoder(config, seed=seed)


def meta_model(config: ModelConfig) -> Model:
    """The model of a shape, without memory."""
    with torch.device("meta"):
        return build_model(config)


def empty_model(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> Model:
    """A model whose weights are not set."""
    model = meta_model(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
    return model


def config_from_json(shape: object, path: object) -> ModelConfig:
    """The shape that a JSON object describes; one with a model_type is of Llama's family.

    Raises:
        CheckpointError: a key is missing, unknown, or not a number; names the file.
    """
    try:
        values = cast("dict[str, Any]", shape)
        if isinstance(shape, dict) and "model_type" in shape:
            return DecoderConfig.from_json(values)
        return GPTConfig(**values)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: does not describe a model's shape ({error}). Damaged, or of another version of headrace?"
        ) from error
