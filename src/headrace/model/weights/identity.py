"""A model's directory -> a hash of its shape and weights, which a copy of the directory has too."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import xxhash

from headrace.errors import CheckpointError
from headrace.model.families import ModelConfig
from headrace.model.lora.adapter_format import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_HASH,
    adapter_base,
    base_hash,
    is_adapter,
)
from headrace.model.weights.checkpoint import (
    MANIFEST,
    find_checkpoint,
    hash_file,
    step_dir,
    verify_checkpoint,
)
from headrace.model.weights.hf_directory import hf_config, hf_weight_files
from headrace.model.weights.location import fetch_model
from headrace.paths import split_checkpoint_name

BASE = "base"
"""Where a run keeps the frozen weights that LoRA is beside, once: RUN/base/step-00000000, as a checkpoint has them."""


def base_checkpoint(run: Path) -> Path:
    """The directory of a run's frozen weights; only runs that tune by LoRA have one."""
    return step_dir(run / BASE, 0)


def verify_base(run: Path, expected: object) -> Path:
    """Read and check every byte of a run's frozen weights; returns their directory.

    Args:
        run: the run directory.
        expected: hash of the manifest, as run.json has it.

    Raises:
        CheckpointError: they are gone, damaged, or other weights.
    """
    directory = base_checkpoint(run)
    if not (directory / MANIFEST).is_file():
        raise CheckpointError(
            f"{directory}: the frozen weights that the run tunes are gone. Put them back from a copy of the run."
        )
    verify_checkpoint(directory)
    if (got := hash_file(directory / MANIFEST)) != expected:
        raise CheckpointError(
            f"{directory}: other weights than those that the run tunes (manifest {got}, run.json says {expected})."
        )
    return directory


def run_identity(run: Path, at: str | None = None) -> str:
    """Hash of the weights of a run's checkpoint; with those of its frozen weights, where it has some."""
    directory, _ = find_checkpoint(run, at)
    base = base_checkpoint(run) / MANIFEST
    return f"run {hash_file(directory / MANIFEST)}" + (f"+{hash_file(base)}" if base.is_file() else "")


def hf_identity(directory: Path, config: ModelConfig) -> str:
    """Hash of the shape and the weights of a Hugging Face directory."""
    digest = xxhash.xxh3_128(orjson.dumps(config))
    for file in hf_weight_files(directory):
        digest.update(hash_file(file).encode())
    return f"hf {digest.hexdigest()}"


def adapter_identity(directory: Path, base: str) -> str:
    """Hash of an adapter and of its base's weights."""
    digest = xxhash.xxh3_128(base.encode())
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        digest.update(hash_file(directory / name).encode())
    return f"adapter {digest.hexdigest()}"


def check_base(directory: Path, base: str, *, got: str | None = None) -> None:
    """Compare an adapter's base to the weights that it was trained with, where it says which.

    Args:
        directory: the adapter's.
        base: see `adapter_base`.
        got: hash of the base's weights; default: it is computed, where it is needed.

    Raises:
        CheckpointError: they are others.
    """
    expected = base_hash(directory)
    if expected is None:
        return
    got = weights_identity(base) if got is None else got
    if got != expected:
        raise CheckpointError(
            f"{directory}: trained beside weights with the hash {expected}, and {base} has {got}. Name the base that "
            f"it was trained with, as base_model_name_or_path in {ADAPTER_CONFIG}. If these are the same weights in "
            f"another format, delete {BASE_HASH}."
        )


def weights_identity(source: str | os.PathLike[str]) -> str:
    """Hash of the weights of a run, a Hugging Face directory or an adapter with its base; every byte is read.

    Raises:
        ConfigError, CheckpointError: see `load_model`.
    """
    path, at = split_checkpoint_name(fetch_model(source))
    if (path / "run.json").is_file():
        return run_identity(path, at)
    if is_adapter(path) and (base := adapter_base(path)) != os.fspath(path):
        return adapter_identity(path, weights_identity(base))
    return hf_identity(path, hf_config(path))
