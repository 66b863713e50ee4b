"""A model_type -> how that architecture of Llama's family writes its config.json, and what it has beyond Llama.

Defaults are those of transformers' config classes (5.23), which a config.json that leaves a key out relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.model.llama.decoder_config import FULL, SLIDING

SHAPE_KEYS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
"""Keys that every architecture has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one architecture writes its shape, and what it has beyond Llama."""

    class_name: str
    """transformers' class with the head."""
    defaults: Mapping[str, Any]
    """Keys that decide about the shape -> their values where they are left out."""
    traits: Mapping[str, Any] = field(default_factory=dict)
    """Fields of DecoderConfig that all models of the architecture share."""
    biases: tuple[str, ...] = ("qkv_bias", "attention_out_bias")
    """What attention_bias switches on."""
    activation_key: str = "hidden_act"
    activations: Mapping[str, str] = field(default_factory=dict)
    """Names of activations that mean others here."""
    windows: Callable[[Mapping[str, Any], int], tuple[int | None, tuple[str, ...]]] | None = None
    """Config and number of layers -> sliding window and layer types; None: no layer slides."""
    whole_heads: bool = False
    """Whether transformers refuses a hidden_size that num_attention_heads does not divide."""
    theta: float = 10_000.0


def _all_sliding(config: Mapping[str, Any], num_layers: int) -> tuple[int | None, tuple[str, ...]]:
    window = config["sliding_window"]
    return window, () if window is None else (SLIDING,) * num_layers


def _sliding_from_a_layer(config: Mapping[str, Any], num_layers: int) -> tuple[int | None, tuple[str, ...]]:
    """Qwen: the first max_window_layers are full, if use_sliding_window is set at all."""
    window = config["sliding_window"] if config["use_sliding_window"] else None
    first = config["max_window_layers"]
    kinds = config["layer_types"] or [
        SLIDING if window is not None and layer >= first else FULL for layer in range(num_layers)
    ]
    return window, tuple(kinds)


def _one_full_in(every: int | None) -> Callable[[Mapping[str, Any], int], tuple[int | None, tuple[str, ...]]]:
    """Gemma: every so many layers a full one; None: as the config's sliding_window_pattern says."""

    def of(config: Mapping[str, Any], num_layers: int) -> tuple[int | None, tuple[str, ...]]:
        period = config["sliding_window_pattern"] if every is None else every
        kinds = config["layer_types"] or [
            SLIDING if (layer + 1) % period else FULL for layer in range(num_layers)
        ]
        return config["sliding_window"], tuple(kinds)

    return of


def _defaults(*shape: Any, **more: Any) -> dict[str, Any]:
    """Values of SHAPE_KEYS in order, then num_key_value_heads, then what differs from Llama's."""
    common = {
        "head_dim": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False,
        "hidden_act": "silu",
    }  # fmt: skip
    return dict(zip((*SHAPE_KEYS, "num_key_value_heads"), shape, strict=True)) | common | more


_GEMMA = {"norm_unit_offset": True, "scale_embeddings": True}
_QWEN_WINDOWS = {
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None,
}  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        class_name="LlamaForCausalLM",
        defaults=_defaults(32, 4096, 11008, 32, 32000, 2048, None, mlp_bias=False),
        whole_heads=True,
    ),
    "mistral": Architecture(
        class_name="MistralForCausalLM",
        defaults=_defaults(32, 4096, 14336, 32, 32000, 131_072, 8, sliding_window=4096),
        biases=(),
        windows=_all_sliding,
    ),
    "qwen2": Architecture(
        class_name="Qwen2ForCausalLM",
        defaults=_defaults(32, 4096, 22016, 32, 151_936, 32768, 32, **_QWEN_WINDOWS),
        traits={"qkv_bias": True},
        biases=(),
        windows=_sliding_from_a_layer,
    ),
    "qwen3": Architecture(
        class_name="Qwen3ForCausalLM",
        defaults=_defaults(32, 4096, 22016, 32, 151_936, 32768, 32, **_QWEN_WINDOWS) | {"head_dim": 128},
        traits={"qk_norm": "head"},
        windows=_sliding_from_a_layer,
    ),
    "gemma": Architecture(
        class_name="GemmaForCausalLM",
        defaults=_defaults(28, 3072, 24576, 16, 256_000, 8192, 16, hidden_act="gelu_pytorch_tanh")
        | {"head_dim": 256, "tie_word_embeddings": True},
        traits=_GEMMA,
        # The first files say gelu and mean its approximation: transformers reads them so.
        activations={"gelu": "gelu_pytorch_tanh"},
    ),
    "gemma2": Architecture(
        class_name="Gemma2ForCausalLM",
        defaults=_defaults(
            26, 2304, 9216, 8, 256_000, 8192, 4, sliding_window=4096, layer_types=None, query_pre_attn_scalar=256,
            final_logit_softcapping=30.0, attn_logit_softcapping=50.0, hidden_activation="gelu_pytorch_tanh",
        ) | {"head_dim": 256, "tie_word_embeddings": True},
        traits={**_GEMMA, "norm_placement": "both"},
        activation_key="hidden_activation",
        windows=_one_full_in(2),
        whole_heads=True,
    ),
    "gemma3_text": Architecture(
        class_name="Gemma3ForCausalLM",
        defaults=_defaults(
            26, 2304, 9216, 8, 262_208, 131_072, 4, sliding_window=4096, layer_types=None,
            query_pre_attn_scalar=256, final_logit_softcapping=None, hidden_activation="gelu_pytorch_tanh",
            sliding_window_pattern=6,
        ) | {"head_dim": 256, "tie_word_embeddings": True},
        traits={**_GEMMA, "norm_placement": "both", "qk_norm": "head"},
        activation_key="hidden_activation",
        windows=_one_full_in(None),
        whole_heads=True,
        theta=1_000_000.0,
    ),
    "olmo2": Architecture(
        class_name="Olmo2ForCausalLM",
        defaults=_defaults(32, 4096, 11008, 32, 50304, 2048, None) | {"rms_norm_eps": 1e-5},
        traits={"norm_placement": "post", "qk_norm": "projection"},
    ),
}  # fmt: skip
"""model_type -> architecture."""
