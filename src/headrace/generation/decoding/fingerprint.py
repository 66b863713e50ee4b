"""A model's weights -> a hash that identifies the model, independent of its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
import xxhash
from torch import Tensor


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """32 hex digits over names, types, shapes and values, independent of the file format."""
    digest = xxhash.xxh3_128()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of_cache(weights: str, config: Mapping[str, Any], *, library: str = "") -> str:
    """32 hex digits that are equal where the keys and values of equal tokens are.

    Args:
        weights: their fingerprint.
        config: of the model; two models of the same weights can rotate or attend in different ways.
        library: name and version of what implements the model, where that is not headrace.
    """
    content = orjson.dumps(
        [weights, config, library], default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    )
    return xxhash.xxh3_128_hexdigest(content)


def fingerprint_of_files(directory: Path) -> str:
    """32 hex digits over the weight files of a directory, for an engine that does not expose its weights."""
    digest = xxhash.xxh3_128()
    for path in sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")]):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()
