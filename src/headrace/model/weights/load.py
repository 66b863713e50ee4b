"""A run, a Hugging Face directory or a weights file -> a model and its tokenizer, and back."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from headrace.errors import CheckpointError, ConfigError
from headrace.model.families import Model, config_from_json, empty_model
from headrace.model.gpt.gpt import GPTConfig
from headrace.model.gpt.gpt2_format import HEAD, check_layers, gpt2_config, gpt2_targets, to_gpt2
from headrace.model.llama.decoder import Decoder
from headrace.model.llama.decoder_format import decoder_config_json
from headrace.model.llama.decoder_tensors import decoder_targets, to_hf_tensors
from headrace.model.lora.adapter_format import (
    ADAPTER_CONFIG,
    adapter_base,
    is_adapter,
    read_adapter,
    read_adapter_config,
)
from headrace.model.lora.layers import LoraConfig, empty_lora_tensors, merge_lora
from headrace.model.tensor_files import fill_tensors, read_header, tensors_equal
from headrace.model.weights.checkpoint import find_checkpoint, read_tensors
from headrace.model.weights.hf_directory import HF_CONFIG, WEIGHTS, hf_config, hf_entries
from headrace.model.weights.hf_tokenizer import hf_tokenizer_files, load_hf_tokenizer
from headrace.model.weights.identity import check_base, verify_base
from headrace.model.weights.location import fetch_model
from headrace.paths import local_path, split_checkpoint_name
from headrace.storage import LocalBlob, Progress, fsync_file, make_directory, write_file
from headrace.tokens import Tokenizer, load_tokenizer

RUN = "run.json"
_GENERATION = "generation_config.json"
PRETRAINED = "pretrained"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SIDE_FILES = (
    HF_CONFIG, _GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
"""Files of a Hugging Face directory beside the weights that a run keeps, for chat, generation and export."""
# Files that a model directory may have beside the exported ones: loaders do not read them.
_HARMLESS = {"README.md", "LICENSE", "LICENSE.txt", ".gitattributes", ".git", ".DS_Store"}


def load_model(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> tuple[Model, Tokenizer]:
    """Model and tokenizer of a run directory, of a Hugging Face directory, or of peft's adapter directory.

    A run gives its newest whole checkpoint; RUN@STEP that of a step, RUN@best that of the lowest held-out loss. The
    low-rank matrices of a run that tunes by LoRA, or of peft's adapter directory, are merged into the weights.

    Args:
        path: the directory, or a URL of one, see `fetch_model`.
        device: where the model's parameters are.
        dtype: of the parameters.
        progress: called as progress(bytes done, bytes in all, note) while weights are read.

    Raises:
        CheckpointError: a run without a whole checkpoint, or weights that do not fit their config.
        ConfigError: neither a run nor a Hugging Face directory, or a model of another architecture.
        TokenizerError: no tokenizer beside the weights.
    """
    path, at = split_checkpoint_name(fetch_model(path, progress=progress))
    if (path / RUN).is_file():
        model, tokenizer = load_run(path, at), load_tokenizer(path / "tokenizer")
    elif is_adapter(path):
        model, tokenizer = _load_adapter(path, dtype=dtype, progress=progress)
    elif (path / HF_CONFIG).is_file():
        with ThreadPoolExecutor(
            1
        ) as pool:  # a vocabulary of many entries is parsed while weights are awaited
            reading = pool.submit(load_hf_tokenizer, path)
            model = from_hf(path, dtype=dtype, progress=progress)
            tokenizer = reading.result()
    else:
        raise ConfigError(
            f"{path}: neither a run ({RUN}), a Hugging Face directory ({HF_CONFIG}) nor an adapter ({ADAPTER_CONFIG}) "
            f"is there. Give the --out of headrace train, or a Hugging Face directory."
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids, its model {model.config.vocab_size}. "
            f"Ids above would have no embedding; the two do not belong together."
        )
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _load_adapter(
    directory: Path, *, dtype: torch.dtype, progress: Progress | None
) -> tuple[Model, Tokenizer]:
    """The base of an adapter with the adapter merged into it, and the base's tokenizer."""
    base = adapter_base(directory)
    check_base(directory, base)
    model, tokenizer = load_base(directory, base, dtype=dtype, progress=progress)
    about = read_adapter_config(directory)
    merge_lora(model, read_adapter(directory, model.config), about.lora.scaling)
    return model, tokenizer


def load_base(
    directory: Path, base: str, *, dtype: torch.dtype = torch.float32, progress: Progress | None = None
) -> tuple[Model, Tokenizer]:
    """The model that an adapter belongs to, without the adapter, and its tokenizer."""
    path = Path(base)
    if path.is_dir() and is_adapter(path):  # a whole model with an adapter beside it
        if path.resolve() != directory.resolve():
            raise ConfigError(f"{directory}: its base {base} has an adapter too. Merge that one first.")
        return from_hf(path, dtype=dtype, progress=progress), load_hf_tokenizer(path)
    return load_model(base, dtype=dtype, progress=progress)


def load_run(run: Path, at: str | None = None) -> Model:
    """Weights of a run's checkpoint, on the CPU; low-rank matrices are merged into the frozen weights.

    Args:
        run: run directory.
        at: see `find_checkpoint`; default the newest whole one.

    Raises:
        CheckpointError: there is none, or run.json does not describe a model.
    """
    path = run / RUN
    try:
        about = orjson.loads(path.read_bytes())
        shape, lora = about["recipe"]["model"], about["recipe"].get("lora")
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: does not describe a model ({error!r}). Damaged? Restore it from a copy of the run."
        ) from error
    config = config_from_json(shape, path)
    directory, _ = find_checkpoint(run, at)
    model = empty_model(config)
    weights = {f"model.{name}": parameter.data for name, parameter in model.named_parameters()}
    if lora is None:
        read_tensors(directory, weights)
        return model
    read_tensors(verify_base(run, (about.get("base") or {}).get("checkpoint")), weights)
    settings = LoraConfig.from_json(lora, path)
    tensors = empty_lora_tensors(config, settings)
    read_tensors(directory, {f"model.{name}": tensor for name, tensor in tensors.items()})
    merge_lora(model, tensors, settings.scaling)
    return model


def save_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model into one safetensors file, its shape in the header."""
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, path, metadata={"headrace_config": orjson.dumps(model.config).decode()})


def load_weights(path: str | os.PathLike[str]) -> Model:
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
    check_layers(entries, config.num_hidden_layers, path)
    model = empty_model(config)
    for name, parameter in model.named_parameters():
        if name in entries and entries[name].shape != tuple(parameter.shape):
            raise CheckpointError(
                f"{path}: {name} has shape {list(entries[name].shape)}, the config says {list(parameter.shape)}."
            )
    fill_tensors(blob, entries, {name: parameter.data for name, parameter in model.named_parameters()})
    return model


def to_hf(
    model: Model,
    tokenizer: Tokenizer,
    out: str | os.PathLike[str],
    *,
    files_of: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a Hugging Face directory: AutoModelForCausalLM and AutoTokenizer open it.

    A GPT is written in GPT-2's format, a decoder in that of its model_type, both in float32. While it is written the
    directory has no config.json, so that no reader takes half of it; on return it is durable.

    Args:
        model: see above.
        tokenizer: its tokenizer.
        out: the directory.
        files_of: a Hugging Face directory whose tokenizer, chat template and generation defaults are copied, such as
            `pretrained_files` of the run; default: made from the tokenizer.

    Raises:
        ConfigError: a banded model (GPT-2's format has no banded layers), or out has other files.
    """
    config = model.config
    if isinstance(config, GPTConfig) and config.banded:
        raise ConfigError(
            "export: GPT-2's format has no banded layers; its logits would differ. Train with banded=False."
        )
    out = local_path(out, name="export: out", cure="Export into a local directory, and copy it.")
    ends: dict[str, Any] = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    if files_of is None:
        files = hf_tokenizer_files(tokenizer, max_length=config.max_position_embeddings)
        files[_GENERATION] = orjson.dumps(ends, option=orjson.OPT_INDENT_2)
    else:
        files = read_side_files(Path(files_of))
        before = orjson.loads(files.pop(HF_CONFIG))
        ends = {name: before[name] for name in SPECIAL_IDS if name in before}
    if isinstance(model, Decoder):
        content = decoder_config_json(model.config, special_ids=ends)
        tensors = to_hf_tensors(model, dtype=torch.float32)
    else:
        content = gpt2_config(model.config, eos_id=tokenizer.eos_id)
        tensors = to_gpt2(model)
    check_export_directory(out, {*files, WEIGHTS, HF_CONFIG})
    make_directory(out)
    (out / HF_CONFIG).unlink(missing_ok=True)
    for name, data in files.items():
        write_file(out / name, data)
    temporary = out / f".{WEIGHTS}.tmp"
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        fsync_file(temporary)
        temporary.replace(out / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{out / WEIGHTS}: could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    write_file(out / HF_CONFIG, orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return out


def to_transformers(model: Decoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json and the tensors from which transformers makes the same model."""
    return decoder_config_json(model.config, special_ids={}), to_hf_tensors(model)


def read_side_files(directory: Path) -> dict[str, bytes]:
    """Name -> content of a Hugging Face directory's files beside the weights: config, tokenizer, chat template."""
    return {name: (directory / name).read_bytes() for name in SIDE_FILES if (directory / name).is_file()}


def pretrained_files(model: str | os.PathLike[str]) -> Path | None:
    """Where the side files of the Hugging Face directory are that a model's weights came from; None without.

    Args:
        model: RUN, RUN@STEP or RUN@best, which keeps a copy; or an adapter, whose base has them.
    """
    path, _ = split_checkpoint_name(model)
    if is_adapter(path):
        base, _ = split_checkpoint_name(fetch_model(adapter_base(path)))
        return pretrained_files(base) if (base / RUN).is_file() else base
    directory = path / PRETRAINED
    return directory if (directory / HF_CONFIG).is_file() else None


def check_export_directory(out: Path, written: set[str]) -> None:
    """Refuse a directory with files that a loader would take for a part of the exported model."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: --out is a file; expected a directory, or a name that is free.")
    others = sorted({path.name for path in out.iterdir()} - written - _HARMLESS - {f".{WEIGHTS}.tmp"})
    if others:
        raise ConfigError(
            f"{out}: holds files that would be read with the exported model: {', '.join(others[:5])}"
            f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}. Give another directory, or delete them."
        )


def from_hf(
    directory: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, progress: Progress | None = None
) -> Model:
    """The model of a Hugging Face directory, logits equal.

    Args:
        directory: config.json and safetensors.
        dtype: of the model's parameters; the stored ones are converted while they are read.
        progress: called as progress(bytes done, bytes in all, note).

    Raises:
        ConfigError: another architecture, or an option of it that the decoder does not have.
        CheckpointError: weights are missing, unknown, quantized or of other shapes.
    """
    directory = Path(directory)
    config, blob = hf_config(directory), LocalBlob(directory)
    entries = hf_entries(directory, config)
    check_layers(entries, config.num_hidden_layers, directory)  # before a model of that shape is built
    model = empty_model(config, dtype=dtype)
    if isinstance(model, Decoder):
        targets, table = decoder_targets(model, entries, directory), "model.embed_tokens.weight"
    else:
        targets, table = gpt2_targets(model, entries, directory), "wte.weight"
    fill_tensors(blob, entries, targets, progress=progress)
    tied = config.tie_word_embeddings
    if tied and HEAD in entries and not tensors_equal(blob, entries[HEAD], model.tok.weight):
        raise CheckpointError(
            f"{directory}: {HEAD} differs from {table}, but the model has one matrix for both "
            f"(tie_word_embeddings). Logits would differ."
        )
    return model
