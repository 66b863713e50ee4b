"""A model's name or its shape options, and a vocabulary -> the shape, and what `depth` decides about the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.model import (
    DECODER_SIZES,
    GPT3_CONTEXT,
    DecoderConfig,
    GPTConfig,
    ModelConfig,
    decoder_size,
    read_decoder_config,
)
from headrace.training.shape_options import ShapeOptions

# nanochat's base_train.py (Karpathy, October 2025): width 64 x depth, heads of 128 channels, the token budget and the
# batch; learning rates fall with the square root of the width over 768. There the optimizer is Muon with AdamW, so
# the rate at width 768 is the GPT-3 paper's for AdamW.
_WIDTH_PER_LAYER, _HEAD_DIM, _BATCH_TOKENS, _TOKENS_PER_PARAMETER = 64, 128, 524_288, 20
_LR_AT_768 = 6e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRule:
    """What a depth decides beside the shape."""

    batch_tokens: int
    lr: float
    tokens: int
    """Of the whole run."""


def shape_of(options: ShapeOptions, *, vocab_size: int, seq_len: int | None) -> ModelConfig:
    """The shape that the options describe.

    Args:
        options: not all at their defaults.
        vocab_size: of the stores' tokenizer.
        seq_len: tokens of a row, where they are given.

    Raises:
        ConfigError: numbers that do not go together.
    """
    width, heads = options.hidden_size, options.num_attention_heads
    layers = options.num_hidden_layers
    if options.depth is not None:
        layers, width = options.depth, _WIDTH_PER_LAYER * options.depth
        heads = heads or _heads(width)
    assert layers is not None
    assert width is not None
    assert heads is not None
    context = options.max_position_embeddings or seq_len or GPT3_CONTEXT
    common: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "vocab_size": vocab_size,
        "max_position_embeddings": context,
    }  # fmt: skip
    if options.model_type == "gpt2":
        return GPTConfig(**common)
    head_dim = options.head_dim or width // heads
    keys = {
        **common,
        "model_type": options.model_type or "llama",
        "num_key_value_heads": options.num_key_value_heads or heads,
        "head_dim": head_dim,
        "intermediate_size": options.intermediate_size or -(-8 * width // (3 * 64)) * 64,
        "tie_word_embeddings": options.tie_word_embeddings,
    }
    if options.head_dim is None and width % heads:
        raise ConfigError(f"train: hidden_size {width} is not divisible by num_attention_heads {heads}.")
    if keys["model_type"] in {"gemma2", "gemma3_text"}:
        keys["query_pre_attn_scalar"] = head_dim
    return read_decoder_config(keys, Path("train"))


def _heads(width: int) -> int:
    """As few heads as there can be of an even number of channels, at most 128."""
    heads = -(-width // _HEAD_DIM)
    while width % heads or width // heads % 2:
        heads += 1
    return heads


def depth_rule(config: ModelConfig) -> DepthRule:
    """Nanochat's batch and budget for a shape, and the rate."""
    return DepthRule(
        batch_tokens=_BATCH_TOKENS,
        lr=_LR_AT_768 * (config.hidden_size / 768) ** -0.5,
        tokens=_TOKENS_PER_PARAMETER * config.num_parameters,
    )


def named_shape(name: str, *, vocab_size: int) -> DecoderConfig | None:
    """The published shape of a name, for another vocabulary; None for GPT-3's sizes."""
    return decoder_size(name, vocab_size=vocab_size) if name in DECODER_SIZES else None
