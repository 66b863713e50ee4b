"""Shapes of both families as small as tests want them, and Hugging Face directories with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headrace.model import DecoderConfig, GPTConfig, build_model, to_hf
from headrace.tokens.byte import ByteTokenizer


def small_gpt(*, width: int = 32, vocab_size: int = 257, **more: Any) -> GPTConfig:
    """Two layers of GPT-2's kind."""
    return GPTConfig(**{
        "num_hidden_layers": 2,
        "hidden_size": width,
        "num_attention_heads": 4,
        "vocab_size": vocab_size,
        "max_position_embeddings": 32,
    } | more)  # fmt: skip


def small_llama(*, width: int = 32, vocab_size: int = 257, **more: Any) -> DecoderConfig:
    """Two layers of Llama's kind with grouped-query heads."""
    return DecoderConfig(**{
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": width,
        "intermediate_size": width * 3 // 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "vocab_size": vocab_size,
        "max_position_embeddings": 32,
    } | more)  # fmt: skip


def random_hf_directory(out: Path, shape: Any) -> Path:
    """A directory of a model in which no norm is one and no bias zero, with the byte tokenizer."""
    model = build_model(shape)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return to_hf(model, ByteTokenizer(), out)
