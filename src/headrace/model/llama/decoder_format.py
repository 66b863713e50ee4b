"""A config.json of Llama's family <-> a decoder's shape; what it cannot express is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.model.gpt.gpt2_format import NO_EFFECT
from headrace.model.llama.architectures import ARCHITECTURES, SHAPE_KEYS, Architecture
from headrace.model.llama.decoder_config import FULL, SLIDING, DecoderConfig
from headrace.model.llama.rope import KEYS_OF_TYPE, RopeParameters

_SAME_FUNCTION = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}
# Keys that do not change logits, beside those of every architecture.
_NO_EFFECT = NO_EFFECT | {
    "pretraining_tp",
    "attention_dropout",
    "cache_implementation",
    "transformers.js_config",
}
# Keys that would change the model, or announce a model that would, with the values that do not.
_ABSENT: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "compression_config": (None,),
    "auto_map": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "rope_interleaved": (False, None),
    "is_llama_config": (True, None),
    "use_mrope": (False, None),
    "use_bidirectional_attention": (False, None),
    "clip_qkv": (None,),
    "partial_rotary_factor": (1, 1.0, None),
}  # fmt: skip


_LOCAL_THETA = 10_000.0  # Gemma 3's layers with a window


def read_decoder_config(config: Mapping[str, Any], path: Path) -> DecoderConfig:
    """The shape that a config.json describes.

    Args:
        config: its content.
        path: the file, for messages.

    Raises:
        ConfigError: an architecture, key or value that this decoder does not know or have.
    """
    kind = str(config.get("model_type"))
    architecture = ARCHITECTURES[kind]
    _check_keys(config, kind, path)
    values = {name: config.get(name, default) for name, default in architecture.defaults.items()}
    try:
        return _config_of(kind, architecture, values, config)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('model: ')}") from error


def _check_keys(config: Mapping[str, Any], kind: str, path: Path) -> None:
    architecture = ARCHITECTURES[kind]
    for key, harmless in _ABSENT.items():
        if key in config and config[key] not in harmless:
            raise ConfigError(f"{path}: {key} is {config[key]!r}; this decoder does not have that.")
    rope = {"rope_theta", "rope_scaling", "rope_parameters"}
    own = {*architecture.defaults, *_ABSENT, *_NO_EFFECT, *rope, "hidden_act", "hidden_activation"}
    if kind == "gemma3_text":
        own |= {"rope_local_base_freq", "attn_logit_softcapping"}
        if config.get("attn_logit_softcapping") is not None:
            raise ConfigError(
                f"{path}: attn_logit_softcapping is {config['attn_logit_softcapping']!r}; transformers ignores it "
                f"for gemma3_text. Set it to null."
            )
    if unknown := sorted(key for key in config if key not in own and not key.startswith("_")):
        raise ConfigError(
            f"{path}: keys that {kind} does not have: {', '.join(unknown)}. They may change the model; delete "
            f"those that do not."
        )


def _config_of(
    kind: str, architecture: Architecture, values: dict[str, Any], config: Mapping[str, Any]
) -> DecoderConfig:
    layers, width, heads = (
        values[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        if isinstance(values[name], bool) or not isinstance(values[name], int) or values[name] < 1:
            raise ConfigError(f"{name} is {values[name]!r}; expected a whole number of at least 1.")
    if (values["head_dim"] is None or architecture.whole_heads) and width % heads:
        raise ConfigError(f"hidden_size {width} is not divisible by num_attention_heads {heads}.")
    traits = dict(architecture.traits)
    if not isinstance(values["attention_bias"], bool):
        raise ConfigError(f"attention_bias is {values['attention_bias']!r}; expected true or false.")
    if values["attention_bias"]:
        if not architecture.biases:
            raise ConfigError(f"attention_bias is true, which {kind} does not have.")
        traits |= dict.fromkeys(architecture.biases, True)
    window, kinds = (None, ()) if architecture.windows is None else architecture.windows(values, layers)
    rope, local_rope = _ropes(kind, config, values["max_position_embeddings"])
    if SLIDING not in kinds:
        window, kinds, local_rope = None, (), None
    optional = ("mlp_bias", "query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping")
    return DecoderConfig(
        model_type=kind,
        **{name: values[name] for name in SHAPE_KEYS},
        num_key_value_heads=heads if values["num_key_value_heads"] is None else values["num_key_value_heads"],
        head_dim=width // heads if values["head_dim"] is None else values["head_dim"],
        hidden_act=_activation(architecture, config),
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=values["tie_word_embeddings"],
        rope=rope,
        sliding_rope=local_rope,
        sliding_window=window,
        layer_types=kinds,
        **{name: values[name] for name in optional if name in values},
        **traits,
    )


def _activation(architecture: Architecture, config: Mapping[str, Any]) -> str:
    key = architecture.activation_key

    def read(name: str) -> str | None:
        value = config.get(name)
        value = architecture.activations.get(value, value) if isinstance(value, str) else value
        return _SAME_FUNCTION.get(value, value) if isinstance(value, str) else value

    used = read(key) if key in config else architecture.defaults[key]
    for name in ("hidden_act", "hidden_activation"):
        if name != key and read(name) not in {None, used}:
            raise ConfigError(
                f"{name} is {config[name]!r}, {key} {used!r}; transformers uses the latter. Make them agree."
            )
    return str(used)


def _ropes(
    kind: str, config: Mapping[str, Any], context: int
) -> tuple[RopeParameters, RopeParameters | None]:
    """Rotary parameters of full and of sliding layers; those of one kind are None where the kinds share them."""
    scaling, given = config.get("rope_scaling"), config.get("rope_parameters")
    for name, value in (("rope_scaling", scaling), ("rope_parameters", given)):
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{name} is {value!r}; expected an object.")
    theta = config.get("rope_theta", ARCHITECTURES[kind].theta)
    if kind != "gemma3_text":
        if scaling and given and scaling != given:
            raise ConfigError("rope_scaling and rope_parameters differ; they mean the same. Delete one.")
        return _rope(scaling or given or {}, theta, context), None
    nested: dict[str, Any] = {} if given is None else given
    if unknown := sorted(set(nested) - {FULL, SLIDING}):
        raise ConfigError(f"rope_parameters has {', '.join(unknown)}; gemma3_text has {FULL} and {SLIDING}.")
    full = {**(nested.get(FULL) or {}), **(scaling or {})}
    if full.get("truncate") is False:
        raise ConfigError("rope_parameters has truncate false; transformers ignores it for gemma3_text.")
    local = config.get("rope_local_base_freq", _LOCAL_THETA)
    return _rope(full, theta, context), _rope(nested.get(SLIDING) or {}, local, context)


def _rope(given: Mapping[str, Any], theta: Any, context: int) -> RopeParameters:
    values = dict(given)
    kind, old = values.pop("rope_type", None), values.pop("type", None)
    if kind is not None and old is not None and kind != old:
        raise ConfigError(f"rope_type is {kind!r} and type {old!r}; they mean the same. Delete one.")
    kind = kind or old or "default"
    if values.get("partial_rotary_factor") in (1, 1.0, None):
        values.pop("partial_rotary_factor", None)
    needed, optional = KEYS_OF_TYPE.get(kind, ((), ()))
    if kind in KEYS_OF_TYPE and (unknown := sorted(values.keys() - {*needed, *optional, "rope_theta"})):
        raise ConfigError(f"rotary positions of type {kind!r} do not have {', '.join(unknown)}. Delete them.")
    if kind not in KEYS_OF_TYPE:
        values = {}
    if kind in {"yarn", "llama3"}:
        values.setdefault("original_max_position_embeddings", context)
    return RopeParameters(**{"rope_theta": theta, **values, "rope_type": kind})


def decoder_config_json(config: DecoderConfig, *, special_ids: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model.

    Args:
        config: the shape.
        special_ids: bos_token_id, eos_token_id and the like.
    """
    architecture = ARCHITECTURES[config.model_type]
    keys: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": config.model_type,
        **{name: getattr(config, name) for name in (*SHAPE_KEYS, "num_key_value_heads", "head_dim")},
        architecture.activation_key: config.hidden_act,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_out_bias,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "dtype": "float32",
        **special_ids,
    }
    for name in ("mlp_bias", "query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping"):
        if name in architecture.defaults:
            keys[name] = getattr(config, name)
    if "layer_types" in architecture.defaults:
        keys["layer_types"] = list(config.layer_types or (FULL,) * config.num_hidden_layers)
    if "use_sliding_window" in architecture.defaults:
        keys["use_sliding_window"] = config.sliding_window is not None
    if "sliding_window" in architecture.defaults:
        # Gemma's classes want a number even where no layer slides.
        unused = (
            architecture.defaults["sliding_window"] if "scale_embeddings" in architecture.traits else None
        )
        keys["sliding_window"] = unused if config.sliding_window is None else config.sliding_window
    keys["rope_parameters"] = config.rope.to_json()
    if config.model_type == "gemma3_text":
        local = config.sliding_rope or RopeParameters(rope_theta=_LOCAL_THETA)
        keys["rope_parameters"] = {FULL: config.rope.to_json(), SLIDING: local.to_json()}
    return keys
