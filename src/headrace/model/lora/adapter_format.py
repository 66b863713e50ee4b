"""peft's adapter directory (adapter_config.json, adapter_model.safetensors) <-> low-rank matrices by our names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from headrace.errors import CheckpointError, ConfigError
from headrace.model.families import Model, ModelConfig, meta_model
from headrace.model.gpt.gpt import GPTConfig
from headrace.model.gpt.gpt2_format import FLOATS
from headrace.model.lora.layers import (
    LoraConfig,
    default_targets,
    hf_module_name,
    linear_names,
    matching_layers,
)
from headrace.model.tensor_files import TensorEntry, fill_tensors, read_headers
from headrace.storage import LocalBlob, fsync_file, make_directory, write_file

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_HASH = "headrace_adapter.json"
"""Hash of the weights that an adapter was trained with; peft does not read it."""
_PREFIX = "base_model.model."
_USED = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "use_rslora",
    "target_modules", "bias", "init_lora_weights",
}  # fmt: skip
# Keys that do not change what a trained adapter computes.
_NO_EFFECT = {
    "auto_mapping", "inference_mode", "peft_version", "fan_in_fan_out", "megatron_core", "qalora_group_size",
    "layers_to_transform", "layers_pattern", "exclude_modules", "runtime_config", "ensure_weight_tying",
}  # fmt: skip
# Starts that leave the base's weights as they are; others (pissa, olora, loftq, corda) change them.
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The content of an adapter_config.json."""

    base: str
    """base_model_name_or_path."""
    revision: str | None
    lora: LoraConfig
    """Its targets as the file has them; a regular expression is one target."""
    is_partial: bool
    """Whether some layers may be left out."""


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter; one with a whole model beside it is one too, as for transformers."""
    return (directory / ADAPTER_CONFIG).is_file() and not (directory / "run.json").is_file()


def read_adapter_config(directory: Path) -> AdapterConfig:
    """The adapter_config.json of a directory.

    Raises:
        ConfigError: not JSON, no LoRA, or an option that would change the model in a way that is not done here.
    """
    path = directory / ADAPTER_CONFIG
    try:
        values: Any = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error}). Copy the adapter again.") from error
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else type(values).__name__
        raise ConfigError(f"{path}: peft_type is {kind!r}; LORA adapters are read here, and no others.")
    refused = {key: value for key, value in values.items() if key not in _USED | _NO_EFFECT and value}
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        refused["task_type"] = values["task_type"]
    if values.get("bias", "none") != "none":
        refused["bias"] = values["bias"]
    if values.get("init_lora_weights", True) not in _INITIAL:
        refused["init_lora_weights"] = values["init_lora_weights"]
    if refused:
        raise ConfigError(
            f"{path}: {', '.join(f'{key} is {value!r}' for key, value in sorted(refused.items()))}; plain LoRA on "
            f"linear layers is read here. Merge it with peft (merge_and_unload, save_pretrained), and give that."
        )
    rank, alpha, targets = values.get("r", 8), values.get("lora_alpha", 8), values.get("target_modules")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"{path}: r is {rank!r}; expected a whole number, at least 1.")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ConfigError(f"{path}: lora_alpha is {alpha!r}; expected a number.")
    base = values.get("base_model_name_or_path")
    return AdapterConfig(
        base="" if base is None else str(base),
        revision=values.get("revision"),
        lora=LoraConfig(
            r=rank,
            lora_alpha=float(alpha),
            target_modules=(targets,) if isinstance(targets, str) else tuple(targets or ()),
            lora_dropout=float(values.get("lora_dropout") or 0.0),
            use_rslora=bool(values.get("use_rslora")),
        ),
        is_partial=bool(values.get("layers_to_transform") is not None or values.get("exclude_modules")),
    )


def adapter_base(directory: Path) -> str:
    """The model that an adapter belongs to: a local path, or hf://OWNER/NAME.

    Raises:
        ConfigError: the adapter does not say, or names a directory that is not here.
    """
    config, path = read_adapter_config(directory), directory / ADAPTER_CONFIG
    if not config.base:
        raise ConfigError(f"{path}: no base_model_name_or_path. Write the base's path or its name there.")
    for local in (Path(config.base), directory / config.base):
        if local.is_dir() and not (is_adapter(local) and not (local / "config.json").is_file()):
            return os.fspath(local)
    parts = config.base.split("/")
    if "://" in config.base:
        return config.base
    if len(parts) == 2 and all(parts) and not config.base.startswith("."):
        return f"hf://{config.base}" + (f"@{config.revision}" if config.revision else "")
    # RUN@STEP, as an adapter of a branch of a run names it
    run, at, _ = config.base.rpartition("@")
    if at and (Path(run) / "run.json").is_file():
        return config.base
    raise ConfigError(
        f"{path}: base_model_name_or_path is {config.base!r}, and no such directory is here. Write there the path "
        f"of the model that the adapter was trained with."
    )


def base_hash(directory: Path) -> str | None:
    """Hash of the weights that an adapter was trained with, where it says."""
    path = directory / BASE_HASH
    if not path.is_file():
        return None
    try:
        return str(orjson.loads(path.read_bytes())["base_weights"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error!r}). Copy the adapter again.") from error


def read_adapter(directory: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The low-rank matrices of an adapter by our names, in float32.

    Args:
        directory: peft's.
        config: of the model that the adapter belongs to.

    Raises:
        ConfigError: see `read_adapter_config`.
        CheckpointError: a tensor is missing, unknown, of another type or shape: every one of the file is used.
    """
    about = read_adapter_config(directory)
    path, lora = directory / ADAPTER_WEIGHTS, about.lora
    if not path.is_file():
        pickles = sorted(one.name for one in directory.glob("*.bin"))
        cure = (
            f" {pickles[0]} is a pickle, which is not opened: load it with peft, save_pretrained."
            if pickles
            else ""
        )
        raise CheckpointError(f"{path}: no such file.{cure}")
    blob = LocalBlob(directory)
    entries = read_headers(blob, [ADAPTER_WEIGHTS])
    ours = {
        f"{_PREFIX}{theirs}": name for name, theirs in _adapter_names(config, linear_names(config)).items()
    }
    if unknown := sorted(entries.keys() - ours.keys()):
        raise CheckpointError(
            f"{path}: tensors that are no LoRA of this model's linear layers: {', '.join(unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. Is the adapter of another base, or one "
            f"of embeddings or the head? Merge it with peft, and give the merged directory."
        )
    targets = matching_layers(config, lora.target_modules or default_targets(config))
    needed = set() if about.is_partial else {_PREFIX + n for n in _adapter_names(config, targets).values()}
    pairs = {name.replace(".lora_A.", ".lora_B.") for name in entries} | {
        name.replace(".lora_B.", ".lora_A.") for name in entries
    }
    if missing := sorted((needed | pairs) - entries.keys()):
        raise CheckpointError(f"{path}: no tensor named {missing[0]!r}, of {len(missing)} that are missing.")
    tensors, model = {}, meta_model(config)
    for theirs, entry in entries.items():
        _check_entry(path, theirs, entry, _shape_of(model, ours[theirs], lora.r))
        tensors[theirs] = torch.empty(entry.shape)
    fill_tensors(blob, entries, tensors)
    return {
        ours[theirs]: _rows_in_our_order(ours[theirs], tensor, config) for theirs, tensor in tensors.items()
    }


def write_adapter(
    out: Path,
    tensors: Mapping[str, Tensor],
    lora: LoraConfig,
    config: ModelConfig,
    *,
    base: str,
    weights: str | None,
) -> None:
    """Write peft's adapter directory; while it is written it has no adapter_config.json.

    Args:
        out: the directory.
        tensors: the low-rank matrices by our names.
        lora: their configuration.
        config: of the model.
        base: the model that the adapter belongs to, a path or OWNER/NAME of a hub.
        weights: hash of its weights, see `weights_identity`.
    """
    make_directory(out)
    (out / ADAPTER_CONFIG).unlink(missing_ok=True)
    names = _adapter_names(config, linear_names(config))
    contiguous = {
        _PREFIX + names[name]: _rows_in_gpt2_order(name, tensor, config).contiguous()
        for name, tensor in tensors.items()
    }
    temporary = out / f".{ADAPTER_WEIGHTS}.tmp"
    try:
        save_file(contiguous, temporary, metadata={"format": "pt"})
        fsync_file(temporary)
        temporary.replace(out / ADAPTER_WEIGHTS)
    finally:
        temporary.unlink(missing_ok=True)
    name, revision = base.removeprefix("hf://"), None
    if base.startswith("hf://") and "@" in name:
        name, _, revision = name.partition("@")
    alpha = int(lora.lora_alpha) if lora.lora_alpha == int(lora.lora_alpha) else lora.lora_alpha
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "r": lora.r,
        "lora_alpha": alpha,
        "lora_dropout": lora.lora_dropout,
        "use_rslora": lora.use_rslora,
        "target_modules": list(lora.target_modules),
        "bias": "none",
        "fan_in_fan_out": isinstance(config, GPTConfig),  # GPT-2's layers keep [in, out]
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    if weights is not None:
        write_file(out / BASE_HASH, orjson.dumps({"base_weights": weights}, option=orjson.OPT_INDENT_2))
    write_file(out / ADAPTER_CONFIG, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _adapter_names(config: ModelConfig, layers: tuple[str, ...]) -> dict[str, str]:
    """Our names of the low-rank matrices of some layers of every block -> peft's, without its prefix."""
    return {
        f"{ours}.lora_{kind}": f"{hf_module_name(config, ours)}.lora_{kind}.weight"
        for ours in (f"blocks.{n}.{name}" for n in range(config.num_hidden_layers) for name in layers)
        for kind in "AB"
    }


def _shape_of(model: Model, name: str, rank: int) -> tuple[int, int]:
    """The shape of a low-rank matrix beside a layer of a model."""
    module, _, kind = name.rpartition(".")
    linear = cast("nn.Linear", model.get_submodule(module))
    return (rank, linear.in_features) if kind == "lora_A" else (linear.out_features, rank)


def _check_entry(path: Path, theirs: str, entry: TensorEntry, shape: tuple[int, int]) -> None:
    if entry.dtype not in FLOATS:
        raise CheckpointError(
            f"{path}: {theirs} is {str(entry.dtype).removeprefix('torch.')}, expected floating point."
        )
    if entry.shape != shape:
        raise CheckpointError(
            f"{path}: {theirs} has shape {list(entry.shape)}; {list(shape)} fits the base and r in "
            f"{ADAPTER_CONFIG}. Is the adapter of another base?"
        )


def _rows_in_gpt2_order(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    if not isinstance(config, GPTConfig) or not name.endswith(".attn.qkv.lora_B"):
        return tensor
    # (head, q/k/v, channel) -> (q/k/v, head, channel)
    by_head = tensor.view(config.num_attention_heads, 3, config.head_dim, -1)
    return by_head.transpose(0, 1).reshape(tensor.shape)


def _rows_in_our_order(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    if not isinstance(config, GPTConfig) or not name.endswith(".attn.qkv.lora_B"):
        return tensor
    by_kind = tensor.view(3, config.num_attention_heads, config.head_dim, -1)
    return by_kind.transpose(0, 1).reshape(tensor.shape)
