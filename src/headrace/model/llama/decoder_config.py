"""Numbers and names of a config.json -> the shape of a Llama-like decoder, or an error that says what cannot be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from headrace.errors import ConfigError
from headrace.model.llama.rope import RopeParameters

QueryKeyNorm = Literal["none", "head", "projection"]
NormPlacement = Literal["pre", "post", "both"]
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2")
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder of Llama's family; names are transformers' where it has one for the same thing."""

    model_type: str
    """The architecture whose format it is exported in: llama, mistral, qwen2, ..."""
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    """Each serves num_attention_heads / num_key_value_heads query heads."""
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope: RopeParameters = field(default_factory=RopeParameters)
    sliding_rope: RopeParameters | None = None
    """Of layers with a sliding window, where they have their own (Gemma 3)."""
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QueryKeyNorm = "none"
    """head: each head by itself (Qwen 3, Gemma 3); projection: all heads together (OLMo 2)."""
    norm_placement: NormPlacement = "pre"
    """pre: on a layer's input; post: on its output (OLMo 2); both (Gemma 2, 3)."""
    norm_unit_offset: bool = False
    """Norms multiply by 1 + weight (Gemma)."""
    scale_embeddings: bool = False
    """Embeddings are multiplied by the square root of hidden_size (Gemma)."""
    query_pre_attn_scalar: float | None = None
    """Attention scores are divided by its square root; default head_dim."""
    sliding_window: int | None = None
    """Tokens that a sliding layer sees, the current one included."""
    layer_types: tuple[str, ...] = ()
    """full_attention or sliding_attention of each layer; empty: all full."""
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built, before memory is allocated."""
        for name in (
            "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
        ):  # fmt: skip
            _whole(name, getattr(self, name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"model: num_attention_heads {self.num_attention_heads} is not divisible by num_key_value_heads "
                f"{self.num_key_value_heads}; each key/value head serves the same number of query heads."
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"model: head_dim is {self.head_dim}; expected an even number: rotary positions turn pairs."
            )
        for name in (
            "rms_norm_eps", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ConfigError(f"model: {name} is {value!r}; expected a number above 0.")
        for name in (
            "tie_word_embeddings", "qkv_bias", "attention_out_bias", "mlp_bias", "norm_unit_offset", "scale_embeddings",
        ):  # fmt: skip
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"model: {name} is {getattr(self, name)!r}; expected true or false.")
        _choice("model_type", self.model_type, MODEL_TYPES)
        _choice("hidden_act", self.hidden_act, ACTIVATIONS)
        _choice("qk_norm", self.qk_norm, get_args(QueryKeyNorm))
        _choice("norm_placement", self.norm_placement, get_args(NormPlacement))
        self._check_layers()

    def _check_layers(self) -> None:
        for kind in self.layer_types:
            _choice("layer_types", kind, (FULL, SLIDING))
        if self.layer_types and len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"model: layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} layers."
            )
        if self.sliding_window is not None:
            _whole("sliding_window", self.sliding_window)
        elif SLIDING in self.layer_types:
            raise ConfigError("model: layer_types has sliding_attention, but there is no sliding_window.")

    @property
    def attention_scale(self) -> float:
        """Factor of attention scores."""
        return float((self.query_pre_attn_scalar or self.head_dim) ** -0.5)

    @property
    def num_parameters(self) -> int:
        """Weights and biases; a tied head is counted once."""
        width, inner, D = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_attention_heads * D, self.num_key_value_heads * D
        block = width * (2 * q + 2 * kv) + 3 * width * inner
        block += (q + 2 * kv) * self.qkv_bias + width * self.attention_out_bias
        block += (2 * inner + width) * self.mlp_bias
        block += width * (4 if self.norm_placement == "both" else 2)
        block += {"none": 0, "head": 2 * D, "projection": q + kv}[self.qk_norm]
        tables = self.vocab_size * width * (1 if self.tie_word_embeddings else 2)
        return tables + self.num_hidden_layers * block + width

    def is_sliding(self, layer: int) -> bool:
        """Whether a layer sees only the last sliding_window tokens."""
        return bool(self.layer_types) and self.layer_types[layer] == SLIDING

    def rope_of(self, layer: int) -> RopeParameters:
        """Rotary frequencies of a layer."""
        sliding = self.is_sliding(layer) and self.sliding_rope is not None
        return self.sliding_rope if sliding and self.sliding_rope is not None else self.rope

    def flops_per_token(self, seq_len: int) -> float:
        """Floating point operations of one training token, forward and backward, nothing recomputed.

        6 for each weight of a matrix product, and attention's 12 T H D a layer, T at most its window.
        """
        width, D = self.hidden_size, self.head_dim
        q, kv = self.num_attention_heads * D, self.num_key_value_heads * D
        layer = width * (2 * q + 2 * kv) + 3 * width * self.intermediate_size
        seen = sum(
            min(seq_len, self.sliding_window or seq_len) if self.is_sliding(each) else seq_len
            for each in range(self.num_hidden_layers)
        )
        matrices = self.num_hidden_layers * layer + self.vocab_size * width
        return 6.0 * matrices + 12.0 * q * seen

    @classmethod
    def from_json(cls, shape: dict[str, Any]) -> DecoderConfig:
        """The shape that `dataclasses.asdict` and JSON made of one.

        Raises:
            TypeError: an unknown or missing key.
            ConfigError: a value that cannot be.
        """
        values = dict(shape)
        for name in ("rope", "sliding_rope"):
            if values.get(name) is not None:
                values[name] = RopeParameters(**values[name])
        values["layer_types"] = tuple(values.get("layer_types") or ())
        return cls(**values)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"model: {name} is {value!r}; expected a whole number, at least 1.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"model: {name} is {value!r}; this decoder has {', '.join(choices)}.")
