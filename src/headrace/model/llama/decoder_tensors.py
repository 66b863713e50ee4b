"""Tensors by transformers' names <-> a decoder's parameters; what has no place in it is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.model.gpt.gpt2_format import FLOATS
from headrace.model.llama.decoder import Decoder
from headrace.model.llama.decoder_config import DecoderConfig
from headrace.model.tensor_files import TensorEntry

_MODULES = {
    "attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj", "attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
}  # fmt: skip
# With norms behind the layers post_attention_layernorm is one of them.
_POST_NORMS = {
    "post_norm1": "post_attention_layernorm", "norm2": "pre_feedforward_layernorm",
    "post_norm2": "post_feedforward_layernorm",
}  # fmt: skip
HEAD = "lm_head.weight"
"""The output matrix, where a file has one of its own."""
_TOP = {
    "tok.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": HEAD,
}
_BUFFER = re.compile(r"(?:model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # that older files hold


def decoder_tensor_name(name: str, config: DecoderConfig) -> str:
    """Our parameter's name -> transformers'."""
    if name in _TOP:
        return _TOP[name]
    _, layer, part = name.split(".", 2)
    module, kind = part.rsplit(".", 1)
    modules = _MODULES if config.norm_placement == "pre" else {**_MODULES, **_POST_NORMS}
    return f"model.layers.{layer}.{modules[module]}.{kind}"


def to_hf_tensors(model: Decoder, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A model's tensors by transformers' names, of their own type by default; those on the CPU share its memory."""
    return {
        decoder_tensor_name(name, model.config): parameter.detach().to(dtype=dtype).contiguous()
        for name, parameter in model.named_parameters()
    }


def decoder_targets(model: Decoder, entries: Mapping[str, TensorEntry], source: object) -> dict[str, Tensor]:
    """Transformers' names of a model's parameters -> the parameters.

    Args:
        model: to be filled.
        entries: the tensors of the files, by `full_name`.
        source: names the files in messages.

    Raises:
        CheckpointError: a tensor is missing, of another type or shape, or unknown: every one of the files is used.
    """
    own = {decoder_tensor_name(name, model.config): tensor.data for name, tensor in model.named_parameters()}
    extra = sorted(entries.keys() - own.keys() - {HEAD})
    if unknown := [name for name in extra if not _BUFFER.fullmatch(name)]:
        raise CheckpointError(
            f"{source}: tensors that its config has no place for: {', '.join(unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. This decoder cannot use them."
        )
    for name, tensor in own.items():
        entry = entries.get(name)
        if entry is None:
            raise CheckpointError(f"{source}: no tensor named {name!r} in its weights.")
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{source}: {name} is {str(entry.dtype).removeprefix('torch.')}, expected floating point: "
                f"quantized weights are not read. Export them unquantized."
            )
        if entry.shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{source}: {name} has shape {list(entry.shape)}, the config says {list(tensor.shape)}."
            )
    return own


def full_name(name: str) -> str:
    """A tensor's name with the prefix that a base model's file leaves out.

    >>> full_name("layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return f"model.{name}" if name.startswith(("layers.", "embed_tokens.", "norm.")) else name
