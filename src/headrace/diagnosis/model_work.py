"""A torch model, a batch and a step's duration -> FLOPs, bytes, MFU, and whether memory or arithmetic binds it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

from headrace.formatting import approximate, percent

# Bytes a second of device memory, from the makers' data sheets.
_BANDWIDTH: Final = {
    "B200": 8.0e12,
    "H200": 4.8e12,
    "H100": 3.35e12,
    "A100": 2.0e12,
    "L40S": 0.86e12,
    "L4": 0.30e12,
    "A10": 0.60e12,
    "MI300X": 5.3e12,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWork:
    """The model's side of a step."""

    flops: float
    """FLOPs of a step: 6 a parameter and token."""
    bytes: float
    """Bytes of parameters, gradients and optimizer state that a step must move at least."""
    intensity: float
    """FLOPs a byte."""
    flops_per_s: float
    """Reached, without the time that waits for data."""
    mfu: float | None
    """Share of the device's peak; None for a device that is not in the table."""
    bound: str
    """compute | memory | unknown."""
    levers: tuple[str, ...]
    """Changes of the model's side that are left."""

    def to_text(self) -> str:
        """One line."""
        reached = f"{approximate(self.flops_per_s)} FLOP/s"
        share = "" if self.mfu is None else f", {percent(self.mfu)} of the device's peak"
        bound = "" if self.bound == "unknown" else f", bound by {self.bound}"
        left = f"; left: {'; '.join(self.levers)}" if self.levers else ""
        return f"{reached}{share}{bound} ({self.intensity:.0f} FLOPs a byte){left}"


def model_work(model: Any, *, tokens: int, work_s: float) -> ModelWork | None:
    """What the step does, as far as parameters and device say; None where torch is not loaded or no token counted.

    Args:
        model: a torch module.
        tokens: tokens of a batch.
        work_s: seconds of a step without its waits.
    """
    torch = sys.modules.get("torch")
    if torch is None or tokens <= 0 or work_s <= 0:
        return None
    parameters = [one for one in model.parameters() if one.requires_grad]
    count = sum(one.numel() for one in parameters)
    if not count:
        return None
    device, dtype = parameters[0].device, parameters[0].dtype
    autocast = (
        bool(torch.is_autocast_enabled(device.type)) if hasattr(torch, "is_autocast_enabled") else False
    )
    flops = 6.0 * count * tokens
    # Weights read twice, gradients written and read, AdamW reads and writes two moments and the weights.
    nbytes = sum(one.numel() * one.element_size() for one in parameters) * 10.0
    peak, bandwidth = _peaks(torch, device, "bfloat16" if dtype == torch.bfloat16 or autocast else "float32")
    reached = flops / work_s
    bound = "unknown"
    if peak and bandwidth:
        bound = "compute" if flops / peak >= nbytes / bandwidth else "memory"
    return ModelWork(
        flops=flops,
        bytes=nbytes,
        intensity=flops / nbytes,
        flops_per_s=reached,
        mfu=reached / peak if peak else None,
        bound=bound,
        levers=_levers(torch, model, dtype, bound=bound, autocast=autocast),
    )


def _peaks(torch: Any, device: Any, dtype: str) -> tuple[float | None, float | None]:
    if device.type != "cuda":
        return None, None
    from headrace.training import peak_flops

    name = torch.cuda.get_device_name(device)
    bandwidth = next((value for known, value in _BANDWIDTH.items() if known in name), None)
    return peak_flops(name, dtype), bandwidth


def _levers(torch: Any, model: Any, dtype: Any, *, bound: str, autocast: bool) -> tuple[str, ...]:
    left = []
    if dtype == torch.float32 and not autocast:
        left.append("dtype: bfloat16 (--dtype bfloat16)")
    if not hasattr(model, "_orig_mod"):  # what torch.compile wraps
        left.append("torch.compile (--compile)")
    if bound == "memory":
        left.append("a larger batch: weights are moved once for more tokens")
    if getattr(model, "is_gradient_checkpointing", False):
        left.append("less recomputation, if memory allows")
    return tuple(left)
