"""A Hugging Face directory -> the shape and the tensors in it, of every architecture that there is a decoder for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from headrace.errors import CheckpointError, ConfigError
from headrace.model.families import ModelConfig
from headrace.model.gpt.gpt import GPTConfig
from headrace.model.gpt.gpt2_format import gpt2_shape
from headrace.model.llama.architectures import ARCHITECTURES
from headrace.model.llama.decoder_format import read_decoder_config
from headrace.model.llama.decoder_tensors import full_name
from headrace.model.tensor_files import TensorEntry, read_headers
from headrace.storage import LocalBlob

HF_CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
FORMATS = f"gpt2, {', '.join(ARCHITECTURES)}"


def hf_config(directory: Path) -> ModelConfig:
    """The shape that a directory's config.json describes.

    Raises:
        ConfigError: none there, not JSON, of another architecture, or a key that the decoder does not know or have.
    """
    path = directory / HF_CONFIG
    config = _read_config(path)
    kind = config.get("model_type")
    if kind == "gpt2":
        return gpt2_shape(config, path)
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return read_decoder_config(config, path)
    hint = (
        " Its text part alone can be saved by transformers: AutoModelForCausalLM, save_pretrained."
        if "text_config" in config
        else ""
    )
    raise ConfigError(
        f"{directory}: a {kind!r} model; the decoders here are those of {FORMATS}.{hint} "
        f"To generate from others, give generate or serve the directory itself."
    )


def hf_entries(directory: Path, config: ModelConfig) -> dict[str, TensorEntry]:
    """The tensors of a directory's files, by the names that `gpt2_targets` and `decoder_targets` have.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is there twice.
    """
    entries: dict[str, TensorEntry] = {}
    for name, entry in read_headers(
        LocalBlob(directory), [p.name for p in hf_weight_files(directory)]
    ).items():
        common = name.removeprefix("transformer.") if isinstance(config, GPTConfig) else full_name(name)
        if common in entries:
            raise CheckpointError(f"{directory / entry.file}: {name} is there twice.")
        entries[common] = entry
    return entries


def hf_weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face directory, one or as its index names them.

    Raises:
        CheckpointError: there are none, or the index names one that is not there.
    """
    index = directory / _SHARD_INDEX
    names = _names_in_index(index) if index.is_file() else [WEIGHTS]
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names {name!r}; expected a file beside it.")
        if not (directory / name).is_file():
            reason = f"{_SHARD_INDEX} names it" if index.is_file() else f"and no {_SHARD_INDEX}"
            pickles = sorted(path.name for path in directory.glob("*.bin"))
            cure = (
                f" There is {pickles[0]}, a pickle, which is not opened: load it with transformers and "
                f"call save_pretrained."
                if pickles
                else " Copied only in part?"
            )
            raise CheckpointError(f"{directory / name}: no such file, {reason}.{cure}")
    return [directory / name for name in names]


def _names_in_index(index: Path) -> list[str]:
    try:
        weight_map: Any = orjson.loads(index.read_bytes())["weight_map"]
        return sorted({str(name) for name in weight_map.values()})
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of safetensors files ({error!r}).") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: Any = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. A Hugging Face directory has one.") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: a JSON {type(config).__name__}, expected an object.")
    return config
