"""A Hugging Face directory or a run -> the weights that another run directory begins with.

An imported run holds its weights as the checkpoint of step 0, tensors only: `generate`, `serve` and `export`
read them like any other, and `train` begins with them, on any layout.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError, ResumeError
from headrace.model import (
    BASE,
    HF_CONFIG,
    MANIFEST,
    PRETRAINED,
    Decoder,
    ModelConfig,
    adapter_base,
    adapter_identity,
    base_checkpoint,
    check_base,
    check_finite,
    check_finite_model,
    config_from_json,
    fetch_model,
    hash_file,
    hf_config,
    hf_identity,
    is_adapter,
    list_checkpoints,
    load_base,
    load_hf_tokenizer,
    load_model,
    pretrained_files,
    read_adapter,
    read_side_files,
    weights_identity,
)
from headrace.paths import is_url, local_path, split_checkpoint_name
from headrace.storage import fsync_directory, make_directory, write_file
from headrace.tokens import Tokenizer, load_tokenizer
from headrace.training.checkpoints.state import check_fresh
from headrace.training.checkpoints.writer import CheckpointWriter
from headrace.training.run_directory.run_json import RUN, read_run, write_run
from headrace.training.run_directory.run_lock import RunLock
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
    """"hf", "run" or "adapter", and a hash of the weights: the recipe keeps it as init_from."""
    adapter: Path | None = None
    """The source, where it is peft's adapter directory."""
    base: Pretrained | None = None
    """The weights that the adapter belongs to."""

    @property
    def files(self) -> Path | None:
        """The directory with tokenizer and chat template."""
        return self.source if self.base is None else self.base.source

    def base_json(self, out: Path) -> dict[str, Any]:
        """Frozen weights that are kept in a run directory, as its run.json holds them."""
        base = self if self.base is None else self.base
        local = base.source is not None and not is_url(base.name)
        return {
            "from": os.fspath(Path(base.name).resolve()) if local else base.name,
            "weights": base.identity,
            "checkpoint": hash_file(base_checkpoint(out) / MANIFEST),
        }

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
        ResumeError: out has files of a run whose run.json is gone.
        CheckpointError: weights are missing, damaged, of other shapes, or no finite numbers.
        TokenizerError: no tokenizer beside the weights.
    """
    out = local_path(out, name="import: out", cure="Import into a local directory, and copy it.")
    with RunLock(out):
        pretrained = read_pretrained(source)
        run = read_run(out)
        if run is None:
            check_fresh(out, [step for step, _ in list_checkpoints(out / "checkpoints")], own=0)
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
        config = config_from_json(run["recipe"]["model"], path / RUN)
    elif is_adapter(path):
        base = _read_base(path)
        config, identity = base.config, adapter_identity(path, base.identity)
        return Pretrained(
            source=path, name=fspath(source), config=config, identity=identity, adapter=path, base=base
        )
    elif (path / HF_CONFIG).is_file():
        config = hf_config(path)
    else:
        raise ConfigError(
            f"{path}: neither a run ({RUN}) nor a Hugging Face directory ({HF_CONFIG}) is there. "
            f"Give the --out of headrace train, or a Hugging Face directory."
        )
    identity = weights_identity(source)
    return Pretrained(source=path, at=at, name=fspath(source), config=config, identity=identity)


def _read_base(adapter: Path) -> Pretrained:
    """The weights that an adapter belongs to, compared with those that it was trained with."""
    name = adapter_base(adapter)
    if Path(name).resolve() == adapter.resolve():  # a whole model with an adapter beside it
        config = hf_config(adapter)
        return Pretrained(source=adapter, name=name, config=config, identity=hf_identity(adapter, config))
    base = read_pretrained(name)
    check_base(adapter, name, got=base.identity)
    return base


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
    if pretrained.files is None:
        model = load_tokenizer(out / "tokenizer")
    elif (pretrained.files / RUN).is_file():
        model = load_tokenizer(pretrained.files / "tokenizer")
    else:
        model = load_hf_tokenizer(pretrained.files)
    difference = tokenizer_difference(model, store)
    if difference is not None:
        raise ConfigError(
            f"train: the store's tokenizer {store.name!r} is not {model.name!r} of {pretrained.name} "
            f"({difference}); its ids would mean other tokens to the model. "
            f"Ingest with --tokenizer {pretrained.files or out / 'tokenizer'}."
        )


def write_weights(pretrained: Pretrained, out: Path, *, frozen: bool = False) -> None:
    """Write tokenizer, and weights as the checkpoint of step 0; does nothing where they are already.

    Frozen weights are written once, as RUN/base, and the checkpoints hold the low-rank matrices alone; those of an
    adapter are the checkpoint of step 0.

    Raises:
        CheckpointError, ConfigError, TokenizerError, SpaceError: see `import_model`.
    """
    if pretrained.source is None:
        return
    source, at = pretrained.source, pretrained.at
    adapter = pretrained.adapter if frozen else None
    if adapter is not None:
        model, tokenizer = load_base(adapter, adapter_base(adapter))
    else:
        model, tokenizer = load_model(source if at is None else f"{source}@{at}")
    check_finite_model(model, source)
    low_rank = {} if adapter is None else read_adapter(adapter, model.config)
    check_finite(low_rank, source)
    make_directory(out)
    save_tokenizer(tokenizer, out / "tokenizer")
    if isinstance(model, Decoder):
        _save_side_files(pretrained.files, out)
    state = {"step": 0, "imported": pretrained.to_json()}
    with CheckpointWriter(out / (BASE if frozen else "checkpoints")) as writer:
        tensors = {f"model.{name}": tensor.detach() for name, tensor in model.named_parameters()}
        writer.save(0, tensors, state)
    if adapter is not None:
        with CheckpointWriter(out / "checkpoints") as writer:
            writer.save(0, {f"model.{name}": tensor for name, tensor in low_rank.items()}, state)


def _save_side_files(source: Path | None, out: Path) -> None:
    """Copy what a run needs to chat, generate and export as the directory that its weights came from does."""
    if source is None:
        return
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
