"""Positions -> cosines and sines of rotary position embeddings, with the frequency scalings in use.

Names and formulas are those of transformers' `rope_parameters` (modeling_rope_utils.py), so that a config.json is
read as it is there.

Shapes: B batch, T tokens, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from headrace.errors import ConfigError

KEYS_OF_TYPE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (
        ("factor",),
        (
            "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
            "mscale_all_dim", "truncate",
        ),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ("original_max_position_embeddings",)),
}  # fmt: skip
"""Rope type -> the keys that it needs, and those that it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeParameters:
    """Base and scaling of rotary frequencies; a key that a type does not use is None."""

    rope_theta: float = 10_000.0
    rope_type: str = "default"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    """Context that the model was trained with before it was extended."""
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown type, a missing key, and a key that the type would ignore."""
        if self.rope_type not in KEYS_OF_TYPE:
            raise ConfigError(
                f"model: rope_type is {self.rope_type!r}; this decoder has {', '.join(KEYS_OF_TYPE)}."
            )
        needed, optional = KEYS_OF_TYPE[self.rope_type]
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name in {"rope_type", "truncate"}:
                continue
            if value is None and (name in needed or name == "rope_theta"):
                raise ConfigError(f"model: rope_type {self.rope_type!r} needs {name}.")
            if value is not None:
                _positive(name, value)
                if name not in {*needed, *optional, "rope_theta"}:
                    raise ConfigError(
                        f"model: rope_type {self.rope_type!r} does not use {name}; it is {value!r}. Delete it."
                    )
        if self.rope_type in {"yarn", "llama3"} and self.original_max_position_embeddings is None:
            raise ConfigError(f"model: rope_type {self.rope_type!r} needs original_max_position_embeddings.")

    def to_json(self) -> dict[str, Any]:
        """The keys that are set, as config.json has them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"model: {name} of the rotary positions is {value!r}; expected a number above 0.")


def rotation(rope: RopeParameters, positions_BT: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, float32 [B, T, D]; the halves of D repeat each other.

    >>> cos, sin = rotation(RopeParameters(), torch.tensor([[0, 1]]), 4)
    >>> cos[0, 1].tolist() == [math.cos(1), math.cos(0.01)] * 2 or round(float(cos[0, 1, 0]), 4)
    0.5403
    """
    with torch.autocast(positions_BT.device.type, enabled=False):
        frequency_D, scale = frequencies(rope, head_dim, positions_BT.device)
        angle_BTD = positions_BT[..., None].float() * frequency_D
        angle_BTD = torch.cat([angle_BTD, angle_BTD], dim=-1)
        return angle_BTD.cos() * scale, angle_BTD.sin() * scale


def rotate(x_BHTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    """Turn each pair (d, d + D/2) of the channels by its position's angle."""
    first, second = x_BHTD.chunk(2, dim=-1)
    turned_BHTD = torch.cat([-second, first], dim=-1)
    cos, sin = cos_BTD.unsqueeze(1).to(x_BHTD.dtype), sin_BTD.unsqueeze(1).to(x_BHTD.dtype)
    return x_BHTD * cos + turned_BHTD * sin


def frequencies(
    rope: RopeParameters, head_dim: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, float]:
    """Radians a position of each channel pair, float32 [D / 2], and a factor of cosine and sine."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float() / head_dim
    base = rope.rope_theta**exponent
    return _SCALINGS[rope.rope_type](rope, base, head_dim)


def _unscaled(rope: RopeParameters, base: Tensor, head_dim: int) -> tuple[Tensor, float]:  # noqa: ARG001
    return 1.0 / base, 1.0


def _linear(rope: RopeParameters, base: Tensor, head_dim: int) -> tuple[Tensor, float]:  # noqa: ARG001
    """Positions divided by a factor.

    Source: Chen et al. 2023, position interpolation.
    """
    assert rope.factor is not None
    return 1.0 / base / rope.factor, 1.0


def _yarn(rope: RopeParameters, base: Tensor, head_dim: int) -> tuple[Tensor, float]:
    """Slow channels interpolated, fast ones kept, a ramp between; attention sharper.

    Source: Peng et al. 2023.
    """
    factor, context = rope.factor, rope.original_max_position_embeddings
    assert factor is not None
    assert context is not None

    def channel(turns: float) -> float:
        """The channel pair that turns so often within the context."""
        return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low, high = channel(rope.beta_fast or 32), channel(rope.beta_slow or 1)
    if rope.truncate is None or rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32, device=base.device) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    scaled = 1.0 / (factor * base) * (1 - kept) + 1.0 / base * kept

    def temperature(mscale: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.attention_factor is not None:
        return scaled, rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scaled, temperature(rope.mscale) / temperature(rope.mscale_all_dim)
    return scaled, temperature()


def _llama3(rope: RopeParameters, base: Tensor, head_dim: int) -> tuple[Tensor, float]:  # noqa: ARG001
    """Long waves divided by a factor, short ones kept, smooth between.

    Source: Llama 3.1's own code.
    """
    factor, context = rope.factor, rope.original_max_position_embeddings
    low, high = rope.low_freq_factor, rope.high_freq_factor
    assert factor is not None
    assert context is not None
    assert low is not None
    assert high is not None
    frequency = 1.0 / base
    wave = 2 * math.pi / frequency
    scaled = torch.where(wave > context / low, frequency / factor, frequency)
    smooth = (context / wave - low) / (high - low)
    between = ~(wave < context / high) & ~(wave > context / low)
    return torch.where(between, (1 - smooth) * scaled / factor + smooth * scaled, scaled), 1.0


_SCALINGS: dict[str, Callable[[RopeParameters, Tensor, int], tuple[Tensor, float]]] = {
    "default": _unscaled,
    "linear": _linear,
    # Dynamic NTK scaling begins behind max_position_embeddings, where this decoder's rows end.
    "dynamic": _unscaled,
    "yarn": _yarn,
    "llama3": _llama3,
}
