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
from headrace.model.hf_tokenizer import hf_tokenizer_files, load_hf_tokenizer
from headrace.tokens import Tokenizer, load_tokenizer

RUN = "run.json"
HF_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
# What GPT-2's format can ask for; a file that asks for what this decoder does not have is refused.
_WANTED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_SAME = {"gelu_pytorch_tanh": "gelu_new"}  # two names of one function
# What a config that leaves a key out means: GPT-2's smallest.
_SIZES = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}


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
        model, tokenizer = from_hf(path), load_hf_tokenizer(path)
    else:
        raise ConfigError(
            f"{path}: neither a run ({RUN}) nor a Hugging Face directory ({HF_CONFIG}) is there. "
            f"Give the --out of headrace train, or a directory in GPT-2's format."
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids, its model {model.config.vocab_size}. "
            f"Ids above would have no embedding; the two do not belong together."
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
    for name, content in hf_tokenizer_files(tokenizer, context=config.max_position_embeddings).items():
        (out / name).write_bytes(content)
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    about = {
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
        **_WANTED,
        **ends,
    }
    (out / "generation_config.json").write_bytes(orjson.dumps(ends, option=orjson.OPT_INDENT_2))
    save_file(_to_gpt2(model), out / _WEIGHTS, metadata={"format": "pt"})
    (out / HF_CONFIG).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    return out


def from_hf(directory: str | os.PathLike[str]) -> GPT:
    """The model of a Hugging Face directory in GPT-2's format, logits equal.

    Raises:
        ConfigError: not GPT-2's format, or an option of it that this decoder does not have.
        CheckpointError: weights are missing or of other shapes.
    """
    directory = Path(directory)
    model = empty_model(hf_config(directory))
    tensors: dict[str, Tensor] = {}
    for path in hf_weight_files(directory):
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    _fill(model, _from_gpt2(tensors, model.config, directory), directory)
    return model


def hf_config(directory: Path) -> GPTConfig:
    """The shape that a config.json in GPT-2's format asks for.

    Raises:
        ConfigError: none there, not JSON, not GPT-2's format, or an option that this decoder does not have.
    """
    path = directory / HF_CONFIG
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. A Hugging Face directory in GPT-2's format has one.")
    try:
        about: Any = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error}).") from error
    if not isinstance(about, dict) or about.get("model_type") != "gpt2":
        kind = about.get("model_type") if isinstance(about, dict) else type(about).__name__
        raise ConfigError(
            f"{directory}: a {kind!r} model; this decoder reads GPT-2's format. "
            f"To generate from others, choose the transformers engine."
        )
    for key, wanted in _WANTED.items():
        got = about.get(key, wanted)
        if _SAME.get(got, got) != wanted:
            raise ConfigError(f"{directory}: {key} is {got!r}; this decoder has {wanted!r} only.")
    sizes = {key: about.get(key, usual) for key, usual in _SIZES.items()}
    for key, number in sizes.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{path}: {key} is {number!r}; wanted a whole number of at least 1.")
    width = sizes["n_embd"]
    if about.get("n_inner") not in {None, 4 * width}:
        raise ConfigError(f"{directory}: n_inner is {about['n_inner']}; this decoder has 4 x {width} only.")
    return GPTConfig(
        num_hidden_layers=sizes["n_layer"],
        hidden_size=width,
        num_attention_heads=sizes["n_head"],
        vocab_size=sizes["vocab_size"],
        max_position_embeddings=sizes["n_positions"],
    )


def hf_weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face directory, one or as its index names them.

    Raises:
        CheckpointError: there are none, or the index names one that is not there.
    """
    index = directory / _SHARD_INDEX
    if index.is_file():
        try:
            names = sorted(set(orjson.loads(index.read_bytes())["weight_map"].values()))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: not an index of safetensors files ({error!r}).") from error
    else:
        names = [_WEIGHTS]
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names {name!r}; wanted a file beside it.")
        if not (directory / name).is_file():
            told = f"{_SHARD_INDEX} names it" if index.is_file() else f"and no {_SHARD_INDEX}"
            pickled = sorted(path.name for path in directory.glob("*.bin"))
            cure = (
                f" There is {pickled[0]}, a pickle, which is not opened: load it with transformers and "
                f"call save_pretrained."
                if pickled
                else " Copied only in part?"
            )
            raise CheckpointError(f"{directory / name}: no such file, {told}.{cure}")
    return [directory / name for name in names]


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
            rows = tensor.view(config.num_attention_heads, 3, config.head_dim, *tensor.shape[1:])
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
            rows = tensor.reshape(3, config.num_attention_heads, config.head_dim, *tensor.shape[1:])
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
