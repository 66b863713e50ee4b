"""A run that tunes by LoRA -> peft's adapter directory."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from headrace.errors import ConfigError
from headrace.model.families import config_from_json
from headrace.model.lora.adapter_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_HASH, write_adapter
from headrace.model.lora.layers import LoraConfig, empty_lora_tensors
from headrace.model.weights.checkpoint import find_checkpoint, read_tensors
from headrace.model.weights.load import RUN, check_export_directory
from headrace.model.weights.location import fetch_model
from headrace.paths import local_path, split_checkpoint_name


def export_adapter(run: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[Path, int]:
    """Write the low-rank matrices of a run's checkpoint as peft's adapter directory.

    Args:
        run: a run that tunes by LoRA: RUN, RUN@STEP or RUN@best.
        out: the directory.

    Returns:
        The directory, and the number of parameters in it.

    Raises:
        ConfigError: the run trains all weights, or out has other files.
        CheckpointError: a run without a whole checkpoint.
    """
    path, at = split_checkpoint_name(fetch_model(run))
    out = local_path(out, name="export: out", cure="Export into a local directory, and copy it.")
    about = orjson.loads((path / RUN).read_bytes()) if (path / RUN).is_file() else {}
    if not about.get("recipe", {}).get("lora"):
        raise ConfigError(
            f"{path}: no run that tunes by LoRA, so it has no adapter. Leave --adapter out: the whole model is "
            f"exported."
        )
    check_export_directory(out, {ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_HASH})
    config = config_from_json(about["recipe"]["model"], path / RUN)
    lora = LoraConfig.from_json(about["recipe"]["lora"], path / RUN)
    directory, _ = find_checkpoint(path, at)
    tensors = empty_lora_tensors(config, lora)
    read_tensors(directory, {f"model.{name}": tensor for name, tensor in tensors.items()})
    base = about["base"]
    write_adapter(out, tensors, lora, config, base=base["from"], weights=base["weights"])
    return out, sum(tensor.numel() for tensor in tensors.values())
