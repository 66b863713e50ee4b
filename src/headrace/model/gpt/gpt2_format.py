"""Hugging Face's GPT-2 files <-> this decoder's shape and tensors; what it cannot express is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.errors import CheckpointError, ConfigError
from headrace.model.gpt.gpt import GPT, GPTConfig
from headrace.model.tensor_files import TensorEntry

FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
"""Keys whose other values this decoder does not have."""
_SAME_FUNCTION = {"gelu_pytorch_tanh": "gelu_new"}
_ABSENT: dict[str, tuple[Any, ...]] = {
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
    "cross_attention_hidden_size": (None,),
    "auto_map": (None,),
}
"""Keys that would change the model, with the values that do not."""
# GPT-2's name -> transformers' common name, which its attribute_map takes as well; a key that is left out
# means GPT-2's smallest size.
_SHAPE = {
    "n_layer": ("num_hidden_layers", 12),
    "n_embd": ("hidden_size", 768),
    "n_head": ("num_attention_heads", 12),
    "vocab_size": ("vocab_size", 50257),
    "n_positions": ("max_position_embeddings", 1024),
}
# Keys that do not change logits: dropout and initialisation, ids of special tokens, classification heads,
# generation, and notes about the file.
NO_EFFECT = {
    "architectures", "model_type", "n_ctx", "n_inner", "transformers_version", "torch_dtype", "dtype",
    "use_cache", "initializer_range", "attn_pdrop", "embd_pdrop", "resid_pdrop",
    "reorder_and_upcast_attn", "gradient_checkpointing", "chunk_size_feed_forward", "bos_token_id",
    "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "tokenizer_class", "prefix", "summary_type", "summary_use_proj",
    "summary_activation", "summary_proj_to_labels", "summary_first_dropout", "num_labels", "id2label",
    "label2id", "problem_type", "finetuning_task", "task_specific_params", "predict_special_tokens",
    "output_attentions", "output_hidden_states", "output_past", "output_scores", "return_dict",
    "return_dict_in_generate", "torchscript", "use_bfloat16", "tf_legacy_loss", "is_decoder",
    "tie_encoder_decoder", "attn_implementation", "name_or_path", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens",
}  # fmt: skip

# Our name -> GPT-2's, below a block, and at the top.
_BLOCK = {
    "norm1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_TOP = {
    "tok.weight": "wte.weight",
    "pos.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
HEAD = "lm_head.weight"
"""The output matrix, where a file has one of its own."""
_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # causal masks that older files hold
FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64}


def gpt2_shape(config: Mapping[str, Any], path: Path) -> GPTConfig:
    """The shape that a config.json in GPT-2's format describes.

    Args:
        config: its content.
        path: the file, for messages.

    Raises:
        ConfigError: a key that this decoder does not know or have.
    """
    directory = path.parent
    for key, expected in FIXED.items():
        value = config.get(key, expected)
        if isinstance(value, str):
            value = _SAME_FUNCTION.get(value, value)
        if value != expected:
            raise ConfigError(f"{directory}: {key} is {config[key]!r}; this decoder has {expected!r} only.")
    for key, harmless in _ABSENT.items():
        if key in config and config[key] not in harmless:
            raise ConfigError(f"{directory}: {key} is {config[key]!r}; this decoder does not have that.")
    known = {*FIXED, *_ABSENT, *NO_EFFECT, *_SHAPE, *(common for common, _ in _SHAPE.values())}
    if unknown := sorted(key for key in config if key not in known and not key.startswith("_")):
        raise ConfigError(
            f"{path}: keys that this decoder does not know: {', '.join(unknown)}. They may change the model; "
            f"delete those that do not, or choose the transformers engine."
        )
    shape = {name: _shape_value(config, name, path) for name in _SHAPE}
    if config.get("n_inner") not in {None, 4 * shape["n_embd"]}:
        raise ConfigError(
            f"{directory}: n_inner is {config['n_inner']}; this decoder has 4 x {shape['n_embd']} only."
        )
    return GPTConfig(
        num_hidden_layers=shape["n_layer"],
        hidden_size=shape["n_embd"],
        num_attention_heads=shape["n_head"],
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["n_positions"],
    )


def _shape_value(config: Mapping[str, Any], name: str, path: Path) -> int:
    common, default = _SHAPE[name]
    values = {key: config[key] for key in dict.fromkeys((name, common)) if key in config}
    if len(set(map(repr, values.values()))) > 1:
        raise ConfigError(
            f"{path}: {' and '.join(f'{key} is {value!r}' for key, value in values.items())}; they mean the same "
            f"number. Delete the wrong one."
        )
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{path}: {key} is {value!r}; expected a whole number of at least 1.")
        return value
    return default


def gpt2_config(config: GPTConfig, *, eos_id: int) -> dict[str, Any]:
    """The config.json of a model."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.num_hidden_layers,
        "n_embd": config.hidden_size,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "n_ctx": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "n_inner": None,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "dtype": "float32",
        **FIXED,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
    }


def gpt2_name(name: str) -> str:
    """Our parameter's name -> GPT-2's.

    >>> gpt2_name("blocks.3.attn.qkv.weight")
    'h.3.attn.c_attn.weight'
    """
    if name in _TOP:
        return _TOP[name]
    _, layer, part = name.split(".", 2)
    module, kind = part.rsplit(".", 1)
    return f"h.{layer}.{_BLOCK[module]}.{kind}"


def to_gpt2(model: GPT) -> dict[str, Tensor]:
    """A model's tensors by GPT-2's names, float32, in GPT-2's layout."""
    config, tensors = model.config, {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().cpu().float()
        if ".attn.qkv." in name:  # (head, q/k/v, channel) -> (q/k/v, head, channel)
            rows = tensor.view(config.num_attention_heads, 3, config.head_dim, *tensor.shape[1:])
            tensor = rows.transpose(0, 1).reshape(tensor.shape)
        if name.startswith("blocks.") and tensor.ndim == 2:
            tensor = tensor.T  # GPT-2 keeps [in, out]
        tensors[f"transformer.{gpt2_name(name)}"] = tensor.contiguous()
    return tensors


def gpt2_targets(model: GPT, entries: Mapping[str, TensorEntry], source: object) -> dict[str, Tensor]:
    """GPT-2's names of a model's parameters -> views of them with the axes in the order of GPT-2's files.

    Args:
        model: to be filled.
        entries: the tensors of the files, their names without "transformer.".
        source: names the files in messages.

    Raises:
        CheckpointError: a tensor is missing, of another type or shape, or unknown: every one of the files is used.
    """
    check_layers(entries, model.config.num_hidden_layers, source)
    own = {name: gpt2_name(name) for name, _ in model.named_parameters()}
    unknown = sorted(
        name for name in entries.keys() - set(own.values()) - {HEAD} if not _MASK.fullmatch(name)
    )
    if unknown:
        raise CheckpointError(
            f"{source}: tensors that GPT-2 does not have: {', '.join(unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. This decoder cannot use them."
        )
    targets = {}
    for name, parameter in model.named_parameters():
        entry = entries.get(theirs := own[name])
        if entry is None:
            raise CheckpointError(f"{source}: no tensor named {theirs!r} in its weights.")
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{source}: {theirs} is {str(entry.dtype).removeprefix('torch.')}, expected floating point: "
                f"quantized weights are not read. Export them unquantized."
            )
        is_product = name.startswith("blocks.") and parameter.ndim == 2
        expected = tuple(parameter.T.shape if is_product else parameter.shape)  # GPT-2 keeps [in, out]
        if entry.shape != expected:
            raise CheckpointError(
                f"{source}: {theirs} for {name} has shape {list(entry.shape)}, the config says {list(expected)}."
            )
        targets[theirs] = _in_gpt2_layout(name, parameter.data, model.config)
    return targets


def _in_gpt2_layout(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    if ".attn.qkv." in name:  # (head, q/k/v, channel) -> (q/k/v, head, channel)
        rows = tensor.view(config.num_attention_heads, 3, config.head_dim, *tensor.shape[1:]).transpose(0, 1)
        return rows if tensor.ndim == 1 else rows.permute(3, 0, 1, 2)
    return tensor.T if name.startswith("blocks.") and tensor.ndim == 2 else tensor


def check_layers(names: Iterable[str], num_layers: int, source: object) -> None:
    """Refuse a shape of other layers than the tensors have, before a model of that shape is built.

    Raises:
        CheckpointError: see above.
    """
    layers = {match[1] for name in names if (match := re.match(r"(?:h|blocks|model\.layers)\.(\d+)\.", name))}
    if len(layers) != num_layers:
        raise CheckpointError(f"{source}: its weights have {len(layers)} layers, its config {num_layers}.")
