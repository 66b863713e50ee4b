"""LoRA options, an earlier start's recipe and an adapter -> the LoRA configuration of a run, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.model import LoraConfig, ModelConfig, default_targets, read_adapter_config, target_names
from headrace.training.lora_options import LoraOptions
from headrace.training.options import ParallelOptions

DEFAULT_LR = 2e-4
"""Peak learning rate of a run that tunes by LoRA. Source: Hu et al. 2021, table 12, GPT-3."""


def resolve_lora(
    given: LoraOptions, model: ModelConfig, *, before: Mapping[str, Any] | None, adapter: Path | None
) -> LoraConfig | None:
    """The LoRA configuration of a run; None: all weights learn.

    Args:
        given: by the user.
        model: shape of the model that is tuned.
        before: that of an earlier start of the run, as its recipe has it.
        adapter: the adapter that a fresh run begins with.

    Raises:
        ConfigError: options without a rank, a name that is no linear layer, or others than the adapter's.
    """
    if given.r is None and before is None:
        if given.is_given:
            raise ConfigError("train: LoRA options without a rank. Give r (--lora-r), or leave them out.")
        return None
    requested = {
        field.name: getattr(given, field.name)
        for field in dataclasses.fields(given)
        if getattr(given, field.name) != field.default
    }
    known = dict(before or {}) if adapter is None else _adapter_values(adapter, model)
    defaults = {"target_modules": default_targets(model), "lora_dropout": 0.0, "use_rslora": False}
    values: dict[str, Any] = {**defaults, **known, **requested}
    values["target_modules"] = target_names(model, values["target_modules"])
    values["lora_alpha"] = float(values.get("lora_alpha", 2 * values["r"]))
    if adapter is not None:
        fixed = ("r", "lora_alpha", "use_rslora", "target_modules")
        differ = [f"{n}: it has {known[n]}, requested {values[n]}" for n in fixed if known[n] != values[n]]
        if differ:
            raise ConfigError(
                f"train: {adapter} cannot be tuned further with other options: {'; '.join(differ)}. Leave them out; or "
                f"export the adapter merged, and begin a new one with that."
            )
    return LoraConfig(**values)


def _adapter_values(adapter: Path, model: ModelConfig) -> dict[str, Any]:
    """The configuration of an adapter that is tuned further."""
    about = read_adapter_config(adapter)
    if about.is_partial:
        raise ConfigError(
            f"{adapter}: an adapter of some layers alone; all layers are tuned here. Leave the LoRA options out, so "
            f"that it is merged and all weights learn; or merge it with headrace export, and begin a new one with that."
        )
    targets = about.lora.target_modules or default_targets(model)
    return {**dataclasses.asdict(about.lora), "target_modules": target_names(model, targets)}


def check_lora(lora: LoraConfig | None, parallel: ParallelOptions) -> None:
    """Refuse what LoRA cannot do on a layout.

    Raises:
        ConfigError: see above.
    """
    if lora is None:
        return
    if parallel.layout == "auto":
        raise ConfigError(
            "train: layout auto plans the training of all weights. With LoRA give dp, tp, pp, shard."
        )
    processes = parallel.dp * parallel.tp * parallel.pp
    if lora.lora_dropout and processes > 1:
        raise ConfigError(
            f"train: lora_dropout {lora.lora_dropout} on {processes} processes: each layout would drop other "
            f"elements, so that losses would not be those of one process. Give 0, or start one process."
        )
