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

from headrace.errors import CheckpointError, ConfigError, ResumeError
from headrace.model.checkpoint import MANIFEST, hash_file, latest_checkpoint
from headrace.model.gpt import GPTConfig
from headrace.model.hf_tokenizer import load_hf_tokenizer
from headrace.model.weights import HF_CONFIG, hf_config, hf_weight_files, load_model
from headrace.tokens import Tokenizer, first_mismatch, load_tokenizer
from headrace.tokens.probe import tricky_texts
from headrace.training.checkpoint import CheckpointWriter
from headrace.training.recipe import RUN, read_run, write_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """Where a run's first weights come from."""

    source: Path | None
    """A directory to read; None: they are in the run directory already."""
    named: str
    """As the user named it."""
    config: GPTConfig
    identity: str
    """hf or run, and a hash of the weights: what the recipe keeps as init_from."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return {"from": self.named, "weights": self.identity}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What `import_model` left."""

    out: Path
    source: str
    parameters: int
    config: GPTConfig
    vocab_size: int
    """Of the tokenizer; the model's may be padded."""


def import_model(source: str | PathLike[str], out: str | PathLike[str]) -> ImportSummary:
    """Make a run directory of a Hugging Face directory in GPT-2's format, or of a run's newest checkpoint.

    `load_model`, `train`, `headrace generate`, `serve` and `export` take it; logits are equal. The same call
    again leaves it as it is.

    Raises:
        ConfigError: not GPT-2's format, an option that this decoder does not have, or out has another run.
        CheckpointError: weights are missing, damaged or of other shapes.
        TokenizerError: no tokenizer beside the weights.
    """
    out = Path(out)
    pretrained = read_pretrained(source)
    found = read_run(out)
    if found is None:
        write_weights(pretrained, out)
        write_run(out, imported_run(pretrained))
    elif (found.get("imported") or {}).get("weights") != pretrained.identity:
        raise ConfigError(f"{out}: holds another run already. Give another directory with --to.")
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
    path = Path(source)
    if (run := read_run(path)) is not None:
        latest = latest_checkpoint(path / "checkpoints")
        if latest is None:
            raise CheckpointError(f"{path}: no whole checkpoint in it yet. Let the run reach its first one.")
        identity = f"run {hash_file(latest[0] / MANIFEST)}"
        config = GPTConfig(**run["recipe"]["model"])
    elif (path / HF_CONFIG).is_file():
        config = hf_config(path)
        digest = xxhash.xxh3_128(orjson.dumps(config))
        for file in hf_weight_files(path):
            digest.update(hash_file(file).encode())
        identity = f"hf {digest.hexdigest()}"
    else:
        raise ConfigError(
            f"{path}: neither a run ({RUN}) nor a Hugging Face directory ({HF_CONFIG}) is there. "
            f"Give the --out of headrace train, or a directory in GPT-2's format."
        )
    return Pretrained(source=path, named=fspath(source), config=config, identity=identity)


def resolve_pretrained(
    out: Path, found: Mapping[str, Any] | None, asked: str | PathLike[str] | None, *, alone: bool
) -> Pretrained | None:
    """What a run in `out` begins with: what is asked for, what it holds already, or nothing.

    A restart does not read the pretrained again: its weights were copied, and the place may be gone.

    Args:
        out: run directory.
        found: its run.json, None where there is none.
        asked: a Hugging Face directory or a run.
        alone: nothing else is asked for that an pretrained decides: a model's shape, embeddings.

    Raises:
        ResumeError: out began with something else than what is asked for.
        ConfigError: not alone, or as `import_model`.
        CheckpointError: see `import_model`.
    """
    named = fspath(asked) if asked is not None else ((found or {}).get("imported") or {}).get("from")
    if named is not None and not alone:
        raise ConfigError(
            f"train: the weights and the shape come from {named}. Leave out the model and embeddings."
        )
    if found is None:
        return None if asked is None else read_pretrained(asked)
    has = found.get("imported")
    if has is None:
        if asked is not None:
            raise ResumeError(
                f"{out}: holds a run that began with fresh weights, not with those of {fspath(asked)}. "
                f"Give another directory with --out."
            )
        return None
    if (
        asked is not None
        and fspath(asked) != has["from"]
        and read_pretrained(asked).identity != has["weights"]
    ):
        raise ResumeError(
            f"{out}: began with the weights of {has['from']}, asked for those of {fspath(asked)}. "
            f"Leave it out to go on, or give another directory with --out."
        )
    return Pretrained(
        source=None,
        named=has["from"],
        config=GPTConfig(**found["recipe"]["model"]),
        identity=has["weights"],
    )


def is_untrained(found: Mapping[str, Any] | None) -> bool:
    """Whether a run.json says nothing yet of what to train on: none, or that of an imported model."""
    return found is None or "data" not in found["recipe"]


def refuse_tokenizer(pretrained: Pretrained, out: Path, stores: Tokenizer) -> None:
    """Compare the tokenizer that the weights know with the store's.

    Raises:
        ConfigError: they give other ids, so that every embedding would stand for another token.
    """
    if pretrained.source is None:
        theirs = load_tokenizer(out / "tokenizer")
    elif (pretrained.source / RUN).is_file():
        theirs = load_tokenizer(pretrained.source / "tokenizer")
    else:
        theirs = load_hf_tokenizer(pretrained.source)
    if theirs.fingerprint == stores.fingerprint:
        return
    # One definition may come in two forms, such as tiktoken's gpt2 and its tokenizer.json.
    mismatch = None
    if (theirs.vocab_size, theirs.eos_id) == (stores.vocab_size, stores.eos_id):
        mismatch = first_mismatch(theirs, stores, tricky_texts(theirs.added_tokens()))
        if mismatch is None and theirs.token_bytes() == stores.token_bytes():
            return
    told = (
        f"{mismatch.text[:40]!r} is {mismatch.wanted} in the store and {mismatch.got} for the model"
        if mismatch is not None
        else f"{stores.vocab_size} ids, end of document {stores.eos_id}, and "
        f"{theirs.vocab_size} ids, end of document {theirs.eos_id}"
    )
    raise ConfigError(
        f"train: the store's tokenizer {stores.name!r} is not {theirs.name!r} of {pretrained.named} ({told}); "
        f"its ids would mean other tokens to the model. Ingest with --tokenizer {pretrained.named}."
    )


def write_weights(pretrained: Pretrained, out: Path) -> None:
    """Tokenizer, and weights as the checkpoint of step 0; nothing where they are already.

    Raises:
        CheckpointError, ConfigError, TokenizerError, SpaceError: see `import_model`.
    """
    if pretrained.source is None:
        return
    model, tokenizer = load_model(pretrained.source)
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, out / "tokenizer")
    with CheckpointWriter(out / "checkpoints") as writer:
        tensors = {f"model.{name}": tensor.detach() for name, tensor in model.named_parameters()}
        writer.save(0, tensors, {"step": 0, "imported": pretrained.to_json()})


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Copy a tokenizer's own files: a run can be used without its store."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer.files().items():
        (directory / name).write_bytes(content)
