"""A model's directory -> what it says beside its weights: its config, and the ids that begin and end a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import tokenizers

    from headrace.tokens import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids around a model's texts."""

    prefix: tuple[int, ...] = ()
    """In front of every prompt, as the model's own tokenizer puts it; often none."""
    start: int | None
    """An empty prompt where there is no prefix; None: nothing that the model has seen begins a text."""
    eos: tuple[int, ...]
    """Any of them ends a row; none where the model was taught none."""


def special_ids_of(path: Path, tokenizer: Tokenizer) -> SpecialIds:
    """Ids around the texts of a run or a Hugging Face directory.

    A tokenizer without an end of document was given an id above its vocabulary. A run was trained with it; another
    model does not have it, or has padding there.
    """
    end = tokenizer.eos_id
    about = read_config(path)
    if about is None:
        return SpecialIds(start=end, eos=(end,))
    said = _ids_of(path, "eos_token_id")
    definition = _definition(path)
    own = (end,) if definition is None or definition.id_to_token(end) is not None else ()
    size = about.get("vocab_size")
    starts = [*_ids_of(path, "bos_token_id"), *own, *said]
    start = next((i for i in starts if size is None or i < size), None)
    if about.get("model_type") == "gpt2":  # as runs are exported
        return SpecialIds(start=start, eos=(*own, *said))
    return SpecialIds(
        prefix=() if definition is None else _prefix_of(definition), start=start, eos=said or own
    )


def read_config(path: Path) -> dict[str, Any] | None:
    """The config of a Hugging Face directory; None for a run, or where there is nothing."""
    if (path / "run.json").is_file() or not (path / "config.json").is_file():
        return None
    about: dict[str, Any] = orjson.loads((path / "config.json").read_bytes())
    return about


def _ids_of(path: Path, name: str) -> tuple[int, ...]:
    """What the directory says under a name such as "eos_token_id": one id, several, or none."""
    for file in ("generation_config.json", "config.json"):
        if (path / file).is_file():
            ids = orjson.loads((path / file).read_bytes()).get(name)
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _definition(path: Path) -> tokenizers.Tokenizer | None:
    if not (path / "tokenizer.json").is_file():
        return None
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))


def _prefix_of(definition: tokenizers.Tokenizer) -> tuple[int, ...]:
    with_special = definition.encode("a").ids
    without = definition.encode("a", add_special_tokens=False).ids
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return tuple(with_special[:start])
    return ()
