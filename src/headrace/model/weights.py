"""A run, a Hugging Face directory or a weights file -> a model and its tokenizer, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from headrace.errors import CheckpointError, ConfigError
from headrace.model.checkpoint import find_checkpoint, read_tensors, split_checkpoint_name
from headrace.model.gpt import GPT, GPTConfig
from headrace.model.gpt2_format import (
    HEAD,
    HF_CONFIG,
    check_layers,
    gpt2_config,
    gpt2_targets,
    hf_config,
    to_gpt2,
)
from headrace.model.hf_tokenizer import hf_tokenizer_files, load_hf_tokenizer
from headrace.model.tensor_files import Progress, fill_tensors, read_header, read_headers, tensors_equal
from headrace.paths import local_path
from headrace.storage import LocalBlob
from headrace.tokens import Tokenizer, load_tokenizer

RUN = "run.json"
_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
_GENERATION = "generation_config.json"
# Files that a model directory may have beside the exported ones: loaders do not read them.
_HARMLESS = {"README.md", "LICENSE", "LICENSE.txt", ".gitattributes", ".git", ".DS_Store"}


def load_model(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer of a run directory, or of a Hugging Face directory in GPT-2's format.

    A run gives its newest whole checkpoint; RUN@STEP that of a step, RUN@best that of the lowest held-out loss.

    Args:
        path: the directory.
        device: where the model's parameters are.
        dtype: of the parameters.
        progress: called as progress(bytes done, bytes in all, note) while weights are read.

    Raises:
        CheckpointError: a run without a whole checkpoint, or weights that do not fit their config.
        ConfigError: neither a run nor a Hugging Face directory, or a model that is not GPT-2's.
        TokenizerError: no tokenizer beside the weights.
    """
    path = local_path(path, name="model", cure="Copy it to a local directory first.")
    path, at = split_checkpoint_name(path)
    if (path / RUN).is_file():
        model, tokenizer = load_run(path, at), load_tokenizer(path / "tokenizer")
    elif (path / HF_CONFIG).is_file():
        model, tokenizer = from_hf(path, dtype=dtype, progress=progress), load_hf_tokenizer(path)
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
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def load_run(run: Path, at: str | None = None) -> GPT:
    """Weights of a run's checkpoint, on the CPU.

    Args:
        run: run directory.
        at: see `find_checkpoint`; default the newest whole one.

    Raises:
        CheckpointError: there is none, or run.json does not describe a model.
    """
    path = run / RUN
    try:
        shape = orjson.loads(path.read_bytes())["recipe"]["model"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: does not describe a model ({error!r}). Damaged? Restore it from a copy of the run."
        ) from error
    config = config_from_json(shape, path)
    directory, _ = find_checkpoint(run, at)
    model = empty_model(config)
    read_tensors(directory, {f"model.{name}": parameter.data for name, parameter in model.named_parameters()})
    return model


def config_from_json(shape: object, path: object) -> GPTConfig:
    """The shape that a JSON object describes.

    Raises:
        CheckpointError: a key is missing, unknown, or not a number; names the file.
    """
    try:
        return GPTConfig(**cast("dict[str, Any]", shape))
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: does not describe a model's shape ({error}). Damaged, or of another version of headrace?"
        ) from error


def empty_model(config: GPTConfig, *, dtype: torch.dtype = torch.float32) -> GPT:
    """A model whose weights are not set."""
    with torch.device("meta"):
        model = GPT(config).to(dtype)
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
    path = Path(path)
    blob = LocalBlob(path.parent)
    entries, metadata = read_header(blob, path.name)
    if "headrace_config" not in metadata:
        raise CheckpointError(
            f"{path}: no model shape in its header. Load the Hugging Face directory instead."
        )
    try:
        shape = orjson.loads(metadata["headrace_config"])
    except orjson.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its header's model shape is not JSON ({error}).") from error
    config = config_from_json(shape, path)
    check_layers(entries, config, path)
    model = empty_model(config)
    for name, parameter in model.named_parameters():
        if name in entries and entries[name].shape != tuple(parameter.shape):
            raise CheckpointError(
                f"{path}: {name} has shape {list(entries[name].shape)}, the config says {list(parameter.shape)}."
            )
    fill_tensors(blob, entries, {name: parameter.data for name, parameter in model.named_parameters()})
    return model


def to_hf(model: GPT, tokenizer: Tokenizer, out: str | os.PathLike[str]) -> Path:
    """Write a Hugging Face directory in GPT-2's format: AutoModelForCausalLM and AutoTokenizer open it.

    While it is written it has no config.json, so that no reader takes half of it.

    Raises:
        ConfigError: a banded model (GPT-2's format has no banded layers), or out has other files.
    """
    config = model.config
    if config.banded:
        raise ConfigError(
            "export: GPT-2's format has no banded layers; its logits would differ. Train with banded=False."
        )
    out = local_path(out, name="export: out", cure="Export into a local directory, and copy it.")
    files = hf_tokenizer_files(tokenizer, max_length=config.max_position_embeddings)
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    files[_GENERATION] = orjson.dumps(ends, option=orjson.OPT_INDENT_2)
    _check_export_directory(out, {*files, _WEIGHTS, HF_CONFIG})
    out.mkdir(parents=True, exist_ok=True)
    (out / HF_CONFIG).unlink(missing_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    temporary = out / f".{_WEIGHTS}.tmp"
    try:
        save_file(to_gpt2(model), temporary, metadata={"format": "pt"})
        temporary.replace(out / _WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{out / _WEIGHTS}: could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    content = orjson.dumps(gpt2_config(config, eos_id=tokenizer.eos_id), option=orjson.OPT_INDENT_2)
    (out / HF_CONFIG).write_bytes(content)
    return out


def _check_export_directory(out: Path, written: set[str]) -> None:
    """Refuse a directory with files that a loader would take for a part of the exported model."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: --out is a file; expected a directory, or a name that is free.")
    others = sorted({path.name for path in out.iterdir()} - written - _HARMLESS - {f".{_WEIGHTS}.tmp"})
    if others:
        raise ConfigError(
            f"{out}: holds files that would be read with the exported model: {', '.join(others[:5])}"
            f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}. Give another directory, or delete them."
        )


def from_hf(
    directory: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, progress: Progress | None = None
) -> GPT:
    """The model of a Hugging Face directory in GPT-2's format, logits equal.

    Args:
        directory: config.json and safetensors.
        dtype: of the model's parameters; the stored ones are converted while they are read.
        progress: called as progress(bytes done, bytes in all, note).

    Raises:
        ConfigError: not GPT-2's format, or an option of it that this decoder does not have.
        CheckpointError: weights are missing, unknown, quantized or of other shapes.
    """
    directory = Path(directory)
    config = hf_config(directory)
    blob = LocalBlob(directory)
    entries = {}
    for name, entry in read_headers(blob, [path.name for path in hf_weight_files(directory)]).items():
        short = name.removeprefix("transformer.")
        if short in entries:
            raise CheckpointError(f"{directory / entry.file}: {name} is there twice.")
        entries[short] = entry
    check_layers(entries, config, directory)  # before a model of that shape is built
    model = empty_model(config, dtype=dtype)
    fill_tensors(blob, entries, gpt2_targets(model, entries, directory), progress=progress)
    if HEAD in entries and not tensors_equal(blob, entries[HEAD], model.tok.weight):
        raise CheckpointError(
            f"{directory}: {HEAD} differs from wte.weight; this decoder has one matrix for both "
            f"(tie_word_embeddings). Logits would differ."
        )
    return model


def hf_weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face directory, one or as its index names them.

    Raises:
        CheckpointError: there are none, or the index names one that is not there.
    """
    index = directory / _SHARD_INDEX
    names = _names_in_index(index) if index.is_file() else [_WEIGHTS]
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
