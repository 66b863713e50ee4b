"""A Hugging Face directory or a run -> the weights that another run directory begins with.

An imported run holds its weights as the checkpoint of step 0, tensors only: `generate`, `serve` and `export`
read them like any other, and `train` begins with them, on any layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import orjson
import xxhash

from headrace.errors import ConfigError, ResumeError
from headrace.model import (
    HF_CONFIG,
    MANIFEST,
    PRETRAINED,
    Decoder,
    ModelConfig,
    config_from_json,
    fetch_model,
    find_checkpoint,
    hash_file,
    hf_config,
    hf_weight_files,
    load_hf_tokenizer,
    load_model,
    pretrained_files,
    read_side_files,
)
from headrace.paths import local_path, split_checkpoint_name
from headrace.storage import fsync_directory, make_directory, write_file
from headrace.tokens import Tokenizer, load_tokenizer
from headrace.training.checkpoint import CheckpointWriter
from headrace.training.run_json import RUN, read_run, write_run
from headrace.training.run_lock import RunLock
from headrace.training.tokenizer_check import tokenizer_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """Weights that a run begins with."""

    source: Path | None
    """A directory to read; None: they are in the run directory already."""
    at: str | None = None
    """Of a run: the checkpoint, see `find_checkpoint`."""
    name: str
    """The source as the user wrote it."""
    config: ModelConfig
    identity: str
    """"hf" or "run", and a hash of the weights: the recipe keeps it as init_from."""

    def to_json(self) -> dict[str, Any]:
        """The source as run.json holds it."""
        return {"from": self.name, "weights": self.identity}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """Result of `import_model`."""

    out: Path
    source: str
    parameters: int
    config: ModelConfig
    vocab_size: int
    """Of the tokenizer; the model's may be padded."""


def import_model(source: str | PathLike[str], out: str | PathLike[str]) -> ImportSummary:
    """Make a run directory of a Hugging Face directory, or of a run's newest checkpoint.

    `load_model`, `train`, `headrace generate`, `serve` and `export` take it; logits are equal. The same call
    again changes nothing.

    Raises:
        ConfigError: an architecture or an option that there is no decoder for, or out has another run.
        CheckpointError: weights are missing, damaged or of other shapes.
        TokenizerError: no tokenizer beside the weights.
    """
    out = local_path(out, name="import: out", cure="Import into a local directory, and copy it.")
    with RunLock(out):
        pretrained = read_pretrained(source)
        run = read_run(out)
        if run is None:
            write_weights(pretrained, out)
            write_run(out, imported_run(pretrained))
        elif (run.get("imported") or {}).get("weights") != pretrained.identity:
            raise ConfigError(f"{out}: holds another run already. Give another directory with --out.")
        return ImportSummary(
            out=out,
            source=fspath(source),
            parameters=pretrained.config.num_parameters,
            config=pretrained.config,
            vocab_size=load_tokenizer(out / "tokenizer").vocab_size,
        )


def imported_run(pretrained: Pretrained) -> dict[str, Any]:
    """run.json of a run that holds weights and was not trained yet."""
    return {
        "recipe": {"model": dataclasses.asdict(pretrained.config), "model_name": "imported"},
        "imported": pretrained.to_json(),
        "parameters": pretrained.config.num_parameters,
    }


def read_pretrained(source: str | PathLike[str]) -> Pretrained:
    """Shape and identity of the weights in a Hugging Face directory or a run; every byte of them is read.

    Raises:
        ConfigError, CheckpointError: see `import_model`.
    """
    path, at = split_checkpoint_name(fetch_model(source))
    if (run := read_run(path)) is not None:
        directory, _ = find_checkpoint(path, at)
        identity = f"run {hash_file(directory / MANIFEST)}"
        config = config_from_json(run["recipe"]["model"], path / RUN)
    elif (path / HF_CONFIG).is_file():
        config = hf_config(path)
        digest = xxhash.xxh3_128(orjson.dumps(config))
        for file in hf_weight_files(path):
            digest.update(hash_file(file).encode())
        identity = f"hf {digest.hexdigest()}"
    else:
        raise ConfigError(
            f"{path}: neither a run ({RUN}) nor a Hugging Face directory ({HF_CONFIG}) is there. "
            f"Give the --out of headrace train, or a Hugging Face directory."
        )
    return Pretrained(source=path, at=at, name=fspath(source), config=config, identity=identity)


def resolve_pretrained(
    out: Path, run: Mapping[str, Any] | None, init_from: str | PathLike[str] | None, *, alone: bool
) -> Pretrained | None:
    """The weights that a run in `out` begins with: requested now, there already, or none.

    A restart does not read the source again: its weights were copied, and the source may be gone.

    Args:
        out: run directory.
        run: its run.json, None where there is none.
        init_from: a Hugging Face directory or a run.
        alone: no other option decides the model's shape or embeddings.

    Raises:
        ResumeError: out began with other weights than the requested ones.
        ConfigError: not alone, or as `import_model`.
        CheckpointError: see `import_model`.
    """
    imported = (run or {}).get("imported")
    name = fspath(init_from) if init_from is not None else (imported or {}).get("from")
    if name is not None and not alone:
        raise ConfigError(
            f"train: the weights and the shape come from {name}. Leave out the model and embeddings."
        )
    if run is None:
        return None if init_from is None else read_pretrained(init_from)
    if imported is None:
        if init_from is not None:
            raise ResumeError(
                f"{out}: holds a run that began with fresh weights, not with those of {fspath(init_from)}. "
                f"Give another directory with --out."
            )
        return None
    if (
        init_from is not None
        and fspath(init_from) != imported["from"]
        and read_pretrained(init_from).identity != imported["weights"]
    ):
        raise ResumeError(
            f"{out}: began with the weights of {imported['from']}, requested are those of {fspath(init_from)}. "
            f"Leave it out to go on, or give another directory with --out."
        )
    return Pretrained(
        source=None,
        name=imported["from"],
        config=config_from_json(run["recipe"]["model"], out / RUN),
        identity=imported["weights"],
    )


def is_untrained(run: Mapping[str, Any] | None) -> bool:
    """Whether training has yet to begin: there is no run.json, or that of an imported model."""
    return run is None or "data" not in run["recipe"]


def check_tokenizer(pretrained: Pretrained, out: Path, store: Tokenizer) -> None:
    """Compare the tokenizer that the weights were trained with to the store's.

    Raises:
        ConfigError: they give other ids, so that every embedding would mean another token.
    """
    if pretrained.source is None:
        model = load_tokenizer(out / "tokenizer")
    elif (pretrained.source / RUN).is_file():
        model = load_tokenizer(pretrained.source / "tokenizer")
    else:
        model = load_hf_tokenizer(pretrained.source)
    difference = tokenizer_difference(model, store)
    if difference is not None:
        raise ConfigError(
            f"train: the store's tokenizer {store.name!r} is not {model.name!r} of {pretrained.name} "
            f"({difference}); its ids would mean other tokens to the model. "
            f"Ingest with --tokenizer {pretrained.source or out / 'tokenizer'}."
        )


def write_weights(pretrained: Pretrained, out: Path) -> None:
    """Write tokenizer, and weights as the checkpoint of step 0; does nothing where they are already.

    Raises:
        CheckpointError, ConfigError, TokenizerError, SpaceError: see `import_model`.
    """
    if pretrained.source is None:
        return
    source, at = pretrained.source, pretrained.at
    model, tokenizer = load_model(source if at is None else f"{source}@{at}")
    make_directory(out)
    save_tokenizer(tokenizer, out / "tokenizer")
    if isinstance(model, Decoder):
        _save_side_files(pretrained.source, out)
    with CheckpointWriter(out / "checkpoints") as writer:
        tensors = {f"model.{name}": tensor.detach() for name, tensor in model.named_parameters()}
        writer.save(0, tensors, {"step": 0, "imported": pretrained.to_json()})


def _save_side_files(source: Path, out: Path) -> None:
    """Copy what a run needs to chat, generate and export as the directory that its weights came from does."""
    directory = pretrained_files(source) if (source / RUN).is_file() else source
    if directory is None:
        return
    make_directory(out / PRETRAINED)
    for name, content in read_side_files(directory).items():
        write_file(out / PRETRAINED / name, content)
    fsync_directory(out / PRETRAINED)


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Copy a tokenizer's own files: a run can be used without its store."""
    make_directory(directory)
    for name, content in tokenizer.files().items():
        write_file(directory / name, content)
    fsync_directory(directory)
