"""A model's directory -> its config, and the token ids that begin and end a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import ConfigError
from headrace.tokens import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids around a model's texts."""

    prefix: tuple[int, ...] = ()
    """Added before every prompt by the model's own tokenizer; often none."""
    suffix: tuple[int, ...] = ()
    """Added after every prompt by the model's own tokenizer; nearly always none."""
    start: int | None
    """The id for an empty prompt where there is no prefix; None: the model has no token that begins a text."""
    eos: tuple[int, ...]
    """Each of them ends a row; empty where the model was trained without one."""


def special_ids_of(path: Path, tokenizer: Tokenizer) -> SpecialIds:
    """Ids around the texts of a run or a Hugging Face directory.

    A tokenizer without an end-of-text token has got an id above its vocabulary from `load_tokenizer`. A run was
    trained with that id; other models do not have it, or have padding there.
    """
    path, end = prompt_directory(path), tokenizer.eos_id
    config = read_config(path)
    if config is None:
        return SpecialIds(start=end, eos=(end,))
    named = _ids_of(path, "eos_token_id")
    definition = _definition(path)
    own = (end,) if definition is None or definition.id_to_token(end) is not None else ()
    size = config.get("vocab_size")
    candidates = [*_ids_of(path, "bos_token_id"), *own, *named]
    start = next((i for i in candidates if size is None or i < size), None)
    if config.get("model_type") == "gpt2":  # as runs are exported
        return SpecialIds(start=start, eos=(*own, *named))
    prefix, suffix = ((), ()) if definition is None else _added_around(definition)
    return SpecialIds(prefix=prefix, suffix=suffix, start=start, eos=named or own)


def prompt_directory(path: Path) -> Path:
    """Where the tokenizer's settings, the chat template and the generation defaults of a model are.

    A run that began with a Hugging Face directory keeps a copy of its files; an adapter has those of its base.
    """
    path = base_directory(path)
    kept = path / "pretrained"  # headrace.model.PRETRAINED; this module is read without torch
    return kept if (path / "run.json").is_file() and (kept / "config.json").is_file() else path


def base_directory(path: Path) -> Path:
    """The local directory of the model that an adapter belongs to; of any other directory itself.

    Raises:
        ConfigError: the base is not there.
    """
    if (path / "run.json").is_file() or not (path / "adapter_config.json").is_file():
        return path
    from headrace.model import adapter_base, fetch_model
    from headrace.paths import split_checkpoint_name

    return split_checkpoint_name(fetch_model(adapter_base(path)))[0]


def read_config(path: Path) -> dict[str, Any] | None:
    """The config of a Hugging Face directory; None for a run, or where there is none.

    Raises:
        ConfigError: it is not a JSON object.
    """
    if (path / "run.json").is_file() or not (path / "config.json").is_file():
        return None
    config = _read_json(path / "config.json")
    if not isinstance(config.get("model_type", ""), str):
        raise ConfigError(
            f"{path / 'config.json'}: model_type is {config['model_type']!r}; expected a string. Copy the model again."
        )
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}). Copy the model again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: a JSON {type(value).__name__}; expected an object. Copy the model again.")
    return value


def _ids_of(path: Path, name: str) -> tuple[int, ...]:
    """The directory's value of a name such as "eos_token_id": one id, several, or none."""
    for file in ("generation_config.json", "config.json"):
        if (path / file).is_file():
            ids = _read_json(path / file).get(name)
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _definition(path: Path) -> Any:
    if not (path / "tokenizer.json").is_file():
        return None
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))


def _added_around(definition: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer's post-processor adds before and after a text."""
    with_special = definition.encode("a").ids
    without = definition.encode("a", add_special_tokens=False).ids
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return tuple(with_special[:start]), tuple(with_special[start + len(without) :])
    return (), ()
