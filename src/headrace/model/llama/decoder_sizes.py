"""A published model's name -> its shape: Llama, Mistral, Qwen, Gemma, OLMo 2 and SmolLM as they were released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.model.gpt.sizes import SIZES
from headrace.model.llama.architectures import SHAPE_KEYS
from headrace.model.llama.decoder_config import DecoderConfig
from headrace.model.llama.decoder_format import read_decoder_config

# Layers, width, inner width, heads, vocabulary, context, key/value heads.
_Numbers = tuple[int, int, int, int, int, int, int]
_LLAMA2: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5}
_LLAMA3 = {**_LLAMA2, "rope_theta": 500_000.0}
_LLAMA32 = {
    **_LLAMA3,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
_QWEN25: dict[str, Any] = {"model_type": "qwen2", "rope_theta": 1_000_000.0}
_QWEN3: dict[str, Any] = {"model_type": "qwen3", "rope_theta": 1_000_000.0}
_TIED = {"tie_word_embeddings": True}
_GEMMA: dict[str, Any] = {"model_type": "gemma"}
_GEMMA2: dict[str, Any] = {"model_type": "gemma2"}
_GEMMA3: dict[str, Any] = {"model_type": "gemma3_text", "sliding_window": 512}
_OLMO2: dict[str, Any] = {"model_type": "olmo2", "rms_norm_eps": 1e-6, "rope_theta": 500_000.0}
_SMOLLM2 = {**_LLAMA2, "tie_word_embeddings": True}

_PUBLISHED: dict[str, tuple[dict[str, Any], _Numbers]] = {
    "llama2-7b": (_LLAMA2, (32, 4096, 11008, 32, 32000, 4096, 32)),
    "llama2-13b": (_LLAMA2, (40, 5120, 13824, 40, 32000, 4096, 40)),
    "llama2-70b": (_LLAMA2, (80, 8192, 28672, 64, 32000, 4096, 8)),
    "llama3-8b": (_LLAMA3, (32, 4096, 14336, 32, 128_256, 8192, 8)),
    "llama3-70b": (_LLAMA3, (80, 8192, 28672, 64, 128_256, 8192, 8)),
    "llama3.2-1b": (_LLAMA32, (16, 2048, 8192, 32, 128_256, 131_072, 8)),
    "llama3.2-3b": (_LLAMA32, (28, 3072, 8192, 24, 128_256, 131_072, 8)),
    "mistral-7b": (
        {"model_type": "mistral", "rms_norm_eps": 1e-5},
        (32, 4096, 14336, 32, 32000, 32768, 8),
    ),
    "qwen2.5-0.5b": (_QWEN25 | _TIED, (24, 896, 4864, 14, 151_936, 32768, 2)),
    "qwen2.5-1.5b": (_QWEN25 | _TIED, (28, 1536, 8960, 12, 151_936, 131_072, 2)),
    "qwen2.5-3b": (_QWEN25 | _TIED, (36, 2048, 11008, 16, 151_936, 32768, 2)),
    "qwen2.5-7b": (_QWEN25, (28, 3584, 18944, 28, 152_064, 131_072, 4)),
    "qwen2.5-14b": (_QWEN25 | {"rms_norm_eps": 1e-5}, (48, 5120, 13824, 40, 152_064, 131_072, 8)),
    "qwen2.5-32b": (_QWEN25 | {"rms_norm_eps": 1e-5}, (64, 5120, 27648, 40, 152_064, 131_072, 8)),
    "qwen2.5-72b": (_QWEN25 | {"rms_norm_eps": 1e-5}, (80, 8192, 29568, 64, 152_064, 131_072, 8)),
    "qwen3-0.6b": (_QWEN3 | _TIED, (28, 1024, 3072, 16, 151_936, 32768, 8)),
    "qwen3-1.7b": (_QWEN3 | _TIED, (28, 2048, 6144, 16, 151_936, 32768, 8)),
    "qwen3-4b": (_QWEN3 | _TIED, (36, 2560, 9728, 32, 151_936, 32768, 8)),
    "qwen3-8b": (_QWEN3, (36, 4096, 12288, 32, 151_936, 32768, 8)),
    "qwen3-14b": (_QWEN3, (40, 5120, 17408, 40, 151_936, 32768, 8)),
    "qwen3-32b": (_QWEN3, (64, 5120, 25600, 64, 151_936, 32768, 8)),
    "gemma-2b": (_GEMMA, (18, 2048, 16384, 8, 256_000, 8192, 1)),
    "gemma-7b": (_GEMMA, (28, 3072, 24576, 16, 256_000, 8192, 16)),
    "gemma2-2b": (_GEMMA2, (26, 2304, 9216, 8, 256_000, 8192, 4)),
    "gemma2-9b": (_GEMMA2, (42, 3584, 14336, 16, 256_000, 8192, 8)),
    "gemma2-27b": (
        _GEMMA2 | {"head_dim": 128, "query_pre_attn_scalar": 144},
        (46, 4608, 36864, 32, 256_000, 8192, 16),
    ),
    "gemma3-270m": (_GEMMA3, (18, 640, 2048, 4, 262_144, 32768, 1)),
    "gemma3-1b": (_GEMMA3, (26, 1152, 6912, 4, 262_144, 32768, 1)),
    "olmo2-1b": (_OLMO2, (16, 2048, 8192, 16, 100_352, 4096, 16)),
    "olmo2-7b": (_OLMO2, (32, 4096, 11008, 32, 100_352, 4096, 32)),
    "olmo2-13b": (_OLMO2, (40, 5120, 13824, 40, 100_352, 4096, 40)),
    "olmo2-32b": (_OLMO2, (64, 5120, 27648, 40, 100_352, 4096, 8)),
    "smollm2-135m": (_SMOLLM2 | {"rope_theta": 100_000.0}, (30, 576, 1536, 9, 49152, 8192, 3)),
    "smollm2-360m": (_SMOLLM2 | {"rope_theta": 100_000.0}, (32, 960, 2560, 15, 49152, 8192, 5)),
    "smollm2-1.7b": (_SMOLLM2 | {"rope_theta": 130_000.0}, (24, 2048, 8192, 32, 49152, 8192, 32)),
}
DECODER_SIZES = tuple(_PUBLISHED)
"""Names of published shapes of Llama's family."""


def decoder_size(name: str, *, vocab_size: int | None = None) -> DecoderConfig:
    """The shape of a published model.

    Args:
        name: one of DECODER_SIZES.
        vocab_size: of the tokenizer; default the published model's.

    Raises:
        ConfigError: no such name.

    >>> decoder_size("smollm2-135m").num_parameters
    134515008
    """
    if name not in _PUBLISHED:
        raise ConfigError(f"model: no size named {name!r}; there are {', '.join((*SIZES, *DECODER_SIZES))}.")
    config, numbers = _PUBLISHED[name]
    keys = {**config, **dict(zip((*SHAPE_KEYS, "num_key_value_heads"), numbers, strict=True))}
    if vocab_size is not None:
        keys["vocab_size"] = vocab_size
    return read_decoder_config(keys, Path(name))
