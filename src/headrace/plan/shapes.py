"""A model's name, a run, a config.json or its widths -> the shape that a plan computes with. No weights, no torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.paths import local_path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A dense decoder: everything that memory and time depend on."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    num_kv_heads: int = 0
    """Key/value heads; 0: as many as heads."""
    ffn_size: int = 0
    """Width of the feed-forward layer; 0: 4 x hidden_size."""
    gated: bool = False
    """SwiGLU or GeGLU: three matrices instead of two."""
    tied: bool = True
    """Is the output head the token table?"""
    head_size: int = 0
    """Channels of a head; 0: hidden_size / num_heads."""

    def __post_init__(self) -> None:
        """Fill the defaults and refuse what is no model.

        Raises:
            ConfigError: says which value.
        """
        object.__setattr__(self, "num_kv_heads", self.num_kv_heads or self.num_heads)
        if not self.head_size and isinstance(self.hidden_size, int) and isinstance(self.num_heads, int):
            object.__setattr__(self, "head_size", max(1, self.hidden_size // max(1, self.num_heads)))
        object.__setattr__(self, "ffn_size", self.ffn_size or 4 * self.hidden_size)
        for field in (
            "num_layers",
            "hidden_size",
            "num_heads",
            "vocab_size",
            "num_kv_heads",
            "ffn_size",
            "head_size",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"model {self.name}: {field} is {value!r}; expected a whole number above 0")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"model {self.name}: {self.num_heads} heads cannot share {self.num_kv_heads} key/value heads"
            )

    @property
    def attention_size(self) -> int:
        """Width of all heads together: hidden_size in most models."""
        return self.num_heads * self.head_size

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer's matrices."""
        kv = self.num_kv_heads / self.num_heads
        attention = self.hidden_size * self.attention_size * (2 + 2 * kv)
        return int(attention + (3 if self.gated else 2) * self.hidden_size * self.ffn_size)

    @property
    def num_parameters(self) -> int:
        """Weights of the layers, the token table and an untied head; norms and biases are under 0.1 %."""
        tables = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return self.num_layers * self.layer_parameters + tables

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of a token, forward and backward, full attention scores, without recomputation.

        Source: Narayanan et al. 2021, appendix (72 L h^2 (1 + s/6h + V/12Lh) for the GPT shape).
        """
        matrices = self.num_layers * self.layer_parameters + self.vocab_size * self.hidden_size
        return 6.0 * matrices + 12.0 * self.num_layers * self.attention_size * seq_len


def _gpt3(name: str, layers: int, width: int, heads: int) -> ModelShape:
    return ModelShape(name=name, num_layers=layers, hidden_size=width, num_heads=heads, vocab_size=50304)


def _llama(name: str, *sizes: int, tied: bool = False, head_size: int = 0) -> ModelShape:
    layers, width, heads, kv_heads, ffn, vocab = sizes
    return ModelShape(
        name=name, num_layers=layers, hidden_size=width, num_heads=heads, num_kv_heads=kv_heads, ffn_size=ffn,
        vocab_size=vocab, gated=True, tied=tied, head_size=head_size,
    )  # fmt: skip


MODELS: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        # Brown et al. 2020, Table 2.1, with the two rows corrected that contradict themselves (1.3B, 13B).
        _gpt3("tiny", 2, 256, 4),  # not in the paper: for one CPU
        _gpt3("gpt3-125m", 12, 768, 12),
        _gpt3("gpt3-350m", 24, 1024, 16),
        _gpt3("gpt3-760m", 24, 1536, 16),
        _gpt3("gpt3-1.3b", 24, 2048, 16),
        _gpt3("gpt3-2.7b", 32, 2560, 32),
        _gpt3("gpt3-6.7b", 32, 4096, 32),
        _gpt3("gpt3-13b", 40, 5120, 40),
        _gpt3("gpt3-175b", 96, 12288, 96),
        # layers, width, heads, key/value heads, feed-forward width, vocabulary: the published config.json files.
        _llama("llama2-7b", 32, 4096, 32, 32, 11008, 32000),
        _llama("llama2-13b", 40, 5120, 40, 40, 13824, 32000),
        _llama("llama2-70b", 80, 8192, 64, 8, 28672, 32000),
        _llama("llama3-8b", 32, 4096, 32, 8, 14336, 128256),
        _llama("llama3-70b", 80, 8192, 64, 8, 28672, 128256),
        _llama("llama3.1-405b", 126, 16384, 128, 8, 53248, 128256),
        _llama("llama3.2-1b", 16, 2048, 32, 8, 8192, 128256, tied=True),
        _llama("llama3.2-3b", 28, 3072, 24, 8, 8192, 128256, tied=True),
        _llama("mistral-7b", 32, 4096, 32, 8, 14336, 32000),
        _llama("qwen2.5-0.5b", 24, 896, 14, 2, 4864, 151936, tied=True),
        _llama("qwen2.5-1.5b", 28, 1536, 12, 2, 8960, 151936, tied=True),
        _llama("qwen2.5-3b", 36, 2048, 16, 2, 11008, 151936, tied=True),
        _llama("qwen2.5-7b", 28, 3584, 28, 4, 18944, 152064),
        _llama("qwen2.5-14b", 48, 5120, 40, 8, 13824, 152064),
        _llama("qwen2.5-32b", 64, 5120, 40, 8, 27648, 152064),
        _llama("qwen2.5-72b", 80, 8192, 64, 8, 29568, 152064),
        _llama("qwen3-0.6b", 28, 1024, 16, 8, 3072, 151936, tied=True, head_size=128),
        _llama("qwen3-1.7b", 28, 2048, 16, 8, 6144, 151936, tied=True),
        _llama("qwen3-4b", 36, 2560, 32, 8, 9728, 151936, tied=True, head_size=128),
        _llama("qwen3-8b", 36, 4096, 32, 8, 12288, 151936),
        _llama("qwen3-14b", 40, 5120, 40, 8, 17408, 151936),
        _llama("qwen3-32b", 64, 5120, 64, 8, 25600, 151936, head_size=128),
        _llama("gemma-2b", 18, 2048, 8, 1, 16384, 256000, tied=True),
        _llama("gemma-7b", 28, 3072, 16, 16, 24576, 256000, tied=True, head_size=256),
        _llama("gemma2-2b", 26, 2304, 8, 4, 9216, 256000, tied=True, head_size=256),
        _llama("gemma2-9b", 42, 3584, 16, 8, 14336, 256000, tied=True, head_size=256),
        _llama("gemma2-27b", 46, 4608, 32, 16, 36864, 256000, tied=True, head_size=128),
        _llama("gemma3-270m", 18, 640, 4, 1, 2048, 262144, tied=True, head_size=256),
        _llama("gemma3-1b", 26, 1152, 4, 1, 6912, 262144, tied=True, head_size=256),
        _llama("olmo2-1b", 16, 2048, 16, 16, 8192, 100352),
        _llama("olmo2-7b", 32, 4096, 32, 32, 11008, 100352),
        _llama("olmo2-13b", 40, 5120, 40, 40, 13824, 100352),
        _llama("olmo2-32b", 64, 5120, 40, 8, 27648, 100352),
        _llama("smollm2-135m", 30, 576, 9, 3, 1536, 49152, tied=True),
        _llama("smollm2-360m", 32, 960, 15, 5, 2560, 49152, tied=True),
        _llama("smollm2-1.7b", 24, 2048, 32, 32, 8192, 49152, tied=True),
    )
}

_NAMES = {  # of a config.json, in order of preference: transformers' attribute_map has several
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "width"),
    "num_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "num_kv_heads": ("num_key_value_heads",),
    "ffn_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "head_size": ("head_dim",),
}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
_UNGATED = (
    "gpt2",
    "gpt_neox",
    "gpt_neo",
    "gptj",
    "opt",
    "bloom",
    "falcon",
    "phi",
    "gpt_bigcode",
    "mpt",
    "headrace",
)
_TIED = ("gpt2", "headrace", "gemma", "opt", "bloom", "falcon", "mpt", "gpt_bigcode", "cohere")
"""Model types whose config.json need not say that the head is the token table."""


def model_shape(model: str | Path) -> ModelShape:
    """The shape of a named model, a run directory, a Hugging Face directory or a config.json.

    Raises:
        ConfigError: no such name or file, a mixture of experts, or a config without the widths.

    >>> model_shape("gpt3-175b").num_parameters
    174564311040
    """
    if str(model) in MODELS:
        return MODELS[str(model)]
    path = local_path(model, name="plan: model", cure="Copy its config.json to a local path.")
    for candidate in (path, path / "run.json", path / "config.json"):
        if candidate.is_file():
            return _from_config(candidate)
    raise ConfigError(
        f"model {str(model)!r} is no name ({', '.join(MODELS)}) and no file or directory with a config.json"
    )


def _from_config(path: Path) -> ModelShape:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if isinstance(config, dict) and path.name == "run.json":
        recipe = config.get("recipe", config)
        config = recipe.get("model", recipe) if isinstance(recipe, dict) else recipe
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a JSON object with a model's widths")
    for key in _EXPERTS:
        if isinstance(config.get(key), int) and config[key] > 1:
            raise ConfigError(
                f"{path}: {key} is {config[key]}: a mixture of experts. plan knows dense decoders only"
            )
    given: dict[str, Any] = {}
    for field, names in _NAMES.items():
        value = next((config[name] for name in names if config.get(name) is not None), None)
        if value is not None:
            given[field] = value
    missing = [
        field for field in ("num_layers", "hidden_size", "num_heads", "vocab_size") if field not in given
    ]
    if missing:
        expected = "; ".join(" or ".join(_NAMES[field]) for field in missing)
        raise ConfigError(f"{path}: does not say {', '.join(missing)}; expected {expected}")
    kind = str(config.get("model_type", "headrace" if path.name == "run.json" else ""))
    gated = "ffn_size" in given and kind not in _UNGATED
    return ModelShape(
        name=path.parent.name or path.name,
        gated=gated,
        tied=bool(config.get("tie_word_embeddings", kind.startswith(_TIED))),
        **given,
    )


def custom_shape(
    *, layers: int, width: int, heads: int, kv_heads: int | None = None, vocab: int = 50304, ffn: int | None = None,
    gated: bool = False, tied: bool = True,
) -> ModelShape:  # fmt: skip
    """A shape from its widths, for `--layers 32 --width 4096 --heads 32`.

    Raises:
        ConfigError: a width below 1, or one that the heads cannot share.
    """
    if heads > 0 and width % heads:
        raise ConfigError(
            f"model: width {width} cannot be shared by {heads} heads; expected a multiple of {heads}"
        )
    return ModelShape(
        name=f"{layers} layers of {width}", num_layers=layers, hidden_size=width, num_heads=heads,
        num_kv_heads=kv_heads or 0, ffn_size=ffn or 0, gated=gated, vocab_size=vocab, tied=tied,
    )  # fmt: skip


def renamed(shape: ModelShape, name: str) -> ModelShape:
    """The same shape under another name."""
    return dataclasses.replace(shape, name=name)
