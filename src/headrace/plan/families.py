"""A source's name and its set-ups -> the family of training software, whose members' constants are alike.

What a system without measured points of its own reaches depends most on its software: NVIDIA's releases with
Transformer Engine overlap and fuse what older Megatron code and PyTorch's FSDP leave exposed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.plan.points import Points

FAMILIES: Final = ("megatron", "transformer-engine", "fsdp")

_TRANSFORMER_ENGINE = re.compile(
    r"nemo\b(?!.*automodel)|megatron[-_ ]?(bridge|core)|transformer[-_ ]?engine|maxtext.*gpu", re.IGNORECASE
)
_FSDP = re.compile(
    r"fsdp|torchtitan|automodel|foundry|composer|torchtune|lightning|litgpt|tinyllama|accelerate|headrace|olmo|open_lm",
    re.IGNORECASE,
)
_MEGATRON = re.compile(r"megatron|mt-nlg|deepspeed|nanotron|vtrain|korthikanti|neox", re.IGNORECASE)
_HOPPER_FLOPS = 700e12


def family_of(system: str | None, p: Points) -> str:
    """The family of a system, by its name; by its set-ups where the name says nothing.

    Args:
        system: source and GPU; None for headrace's own training, which is FSDP and DTensor.
        p: its set-ups, one or more.
    """
    hopper = bool(np.median(p.peak_bf16) > _HOPPER_FLOPS)
    if system is None or _FSDP.search(system):
        return "fsdp"
    if _TRANSFORMER_ENGINE.search(system):
        return "transformer-engine"
    if _MEGATRON.search(system):
        # Megatron-LM has used Transformer Engine since Hopper; the others never.
        return (
            "transformer-engine" if hopper and re.search("megatron-lm", system, re.IGNORECASE) else "megatron"
        )
    if np.mean((p.fsdp > 1) | (p.zero >= 2)) > 0.5:
        return "fsdp"
    return "transformer-engine" if hopper and np.mean(p.dtype >= 2) > 0.5 else "megatron"


def family_indices(systems: Sequence[str | None], p: Points) -> NDArray[np.int64]:
    """[N]: index into FAMILIES of each set-up's system."""
    families = np.zeros(len(p), dtype=np.int64)
    names = np.array([s or "" for s in systems])
    for name in set(systems):
        rows = names == (name or "")
        families[rows] = FAMILIES.index(family_of(name, p[rows]))
    return families
