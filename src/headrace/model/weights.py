"""A run, a Hugging Face directory or a weights file -> a model and its tokenizer, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headrace.errors import CheckpointError, ConfigError
from headrace.model.checkpoint import latest_checkpoint, read_tensors
from headrace.model.gpt import GPT, GPTConfig
from headrace.model.hf_tokenizer import hf_tokenizer_files
from headrace.tokens import Tokenizer, load_tokenizer

RUN = "run.json"
HF_CONFIG = "config.json"
_SHARD_INDEX = "model.safetensors.index.json"
# What GPT-2's format can ask for and this decoder does not have; a file that asks for it is refused.
_WANTED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def load_model(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> tuple[GPT, Tokenizer]:
    """Model and tokenizer of a run directory, or of a Hugging Face directory in GPT-2's format.

    A run gives its newest whole checkpoint.

    Raises:
        CheckpointError: a run without a whole checkpoint, or weights that do not fit their config.
        ConfigError: neither a run nor a Hugging Face directory, or a model that is not GPT-2's.
        TokenizerError: no tokenizer beside the weights.
    """
    path = Path(path)
    if (path / RUN).is_file():
        model, tokenizer = load_run(path), load_tokenizer(path / "tokenizer")
    elif (path / HF_CONFIG).is_file():
        model, tokenizer = from_hf(path), load_tokenizer(path)
    else:
        raise ConfigError(
            f"{path}: neither a run ({RUN}) nor a Hugging Face directory ({HF_CONFIG}) is there. "
            f"Give the --out of headrace train, or a directory in GPT-2's format."
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids, its model {model.config.vocab_size}."
        )
    return model.to(device).eval(), tokenizer


def load_run(run: Path) -> GPT:
    """Weights of the newest whole checkpoint of a run, on the CPU.

    Raises:
        CheckpointError: there is none.
    """
    config = GPTConfig(**orjson.loads((run / RUN).read_bytes())["recipe"]["model"])
    latest = latest_checkpoint(run / "checkpoints")
    if latest is None:
        raise CheckpointError(
            f"{run}: no whole checkpoint in it yet. Let the training run reach its first one, or continue it."
        )
    model = empty_model(config)
    read_tensors(latest[0], {f"model.{name}": parameter.data for name, parameter in model.named_parameters()})
    return model


def empty_model(config: GPTConfig) -> GPT:
    """A model whose weights are still to be filled in."""
    with torch.device("meta"):
        model = GPT(config)
    return model.to_empty(device="cpu")


def save_weights(model: GPT, path: str | os.PathLike[str]) -> None:
    """Write a model into one safetensors file, its shape in the header."""
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, path, metadata={"headrace_config": orjson.dumps(model.config).decode()})


def load_weights(path: str | os.PathLike[str]) -> GPT:
    """The model that `save_weights` wrote.

    Raises:
        CheckpointError: not a safetensors file of ours, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "headrace_config" not in metadata:
            raise CheckpointError(
                f"{path}: no model shape in its header. Load the Hugging Face directory instead."
            )
        model = empty_model(GPTConfig(**orjson.loads(metadata["headrace_config"])))
        _fill(model, load_file(path), path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
    return model


def to_hf(model: GPT, tokenizer: Tokenizer, out: str | os.PathLike[str]) -> Path:
    """Write a Hugging Face directory in GPT-2's format: AutoModelForCausalLM and AutoTokenizer open it.

    Raises:
        ConfigError: a banded model (GPT-2's format has no banded layers).
    """
    config = model.config
    if config.banded:
        raise ConfigError(
            "export: GPT-2's format has no banded layers; its logits would differ. Train with banded=False."
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in hf_tokenizer_files(tokenizer, context=config.context).items():
        (out / name).write_bytes(content)
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    about = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.num_layers,
        "n_embd": config.width,
        "n_head": config.num_heads,
        "n_positions": config.context,
        "n_ctx": config.context,
        "vocab_size": config.vocab_size,
        "n_inner": None,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "dtype": "float32",
        **_WANTED,
        **ends,
    }
    (out / "generation_config.json").write_bytes(orjson.dumps(ends, option=orjson.OPT_INDENT_2))
    save_file(_to_gpt2(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / HF_CONFIG).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    return out


def from_hf(directory: str | os.PathLike[str]) -> GPT:
    """The model of a Hugging Face directory in GPT-2's format, logits equal.

    Raises:
        ConfigError: not GPT-2's format, or an option of it that this decoder does not have.
        CheckpointError: weights are missing or of other shapes.
    """
    directory = Path(directory)
    about: dict[str, Any] = orjson.loads((directory / HF_CONFIG).read_bytes())
    if about.get("model_type") != "gpt2":
        raise ConfigError(
            f"{directory}: a {about.get('model_type')!r} model; this decoder reads GPT-2's format. "
            f"To generate from others, choose the transformers engine."
        )
    for key, wanted in _WANTED.items():
        if about.get(key, wanted) != wanted:
            raise ConfigError(f"{directory}: {key} is {about[key]!r}; this decoder has {wanted!r} only.")
    width = about["n_embd"]
    if about.get("n_inner") not in {None, 4 * width}:
        raise ConfigError(f"{directory}: n_inner is {about['n_inner']}; this decoder has 4 x {width} only.")
    model = empty_model(
        GPTConfig(
            num_layers=about["n_layer"],
            width=width,
            num_heads=about["n_head"],
            vocab_size=about["vocab_size"],
            context=about["n_positions"],
        )
    )
    _fill(model, _from_gpt2(_read_hf_tensors(directory), model.config, directory), directory)
    return model


def _read_hf_tensors(directory: Path) -> dict[str, Tensor]:
    if (directory / _SHARD_INDEX).is_file():
        names = sorted(set(orjson.loads((directory / _SHARD_INDEX).read_bytes())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(directory / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{directory / name}: not a whole safetensors file: {error}") from error
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


# Ours -> GPT-2's, below a block.
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


def _to_gpt2(model: GPT) -> dict[str, Tensor]:
    config, found = model.config, {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().cpu().float()
        if ".attn.qkv." in name:  # (head, q/k/v, channel) -> (q/k/v, head, channel)
            rows = tensor.view(config.num_heads, 3, config.head_width, *tensor.shape[1:])
            tensor = rows.transpose(0, 1).reshape(tensor.shape)
        if name.startswith("blocks.") and tensor.ndim == 2:
            tensor = tensor.T  # GPT-2 keeps [in, out]
        found[f"transformer.{gpt2_name(name)}"] = tensor.contiguous()
    return found


def _from_gpt2(tensors: Mapping[str, Tensor], config: GPTConfig, where: Path) -> dict[str, Tensor]:
    found = {}
    for name, parameter in empty_shapes(config).items():
        if (tensor := tensors.get(gpt2_name(name))) is None:
            raise CheckpointError(f"{where}: no tensor named {gpt2_name(name)!r} in its weights.")
        if name.startswith("blocks.") and tensor.ndim == 2:
            tensor = tensor.T
        if ".attn.qkv." in name and tensor.shape == parameter.shape:
            rows = tensor.reshape(3, config.num_heads, config.head_width, *tensor.shape[1:])
            tensor = rows.transpose(0, 1).reshape(tensor.shape)
        found[name] = tensor
    return found


def empty_shapes(config: GPTConfig) -> dict[str, nn.Parameter]:
    """Name -> a parameter without memory, of a model of this shape."""
    with torch.device("meta"):
        return dict(GPT(config).named_parameters())


def _fill(model: GPT, tensors: Mapping[str, Tensor], where: object) -> None:
    for name, parameter in model.named_parameters():
        if name not in tensors:
            raise CheckpointError(f"{where}: no tensor named {name!r} in it.")
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, "
                f"the config says {list(parameter.shape)}."
            )
        parameter.data.copy_(tensors[name])
