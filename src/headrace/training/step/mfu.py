"""A device's name -> its peak FLOP/s, of which MFU is the share that a step used."""

from __future__ import annotations

import torch

from headrace.plan import find_gpu


def peak_flops(name: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device by name, from the planner's table; None for others: nothing is guessed.

    >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")
    989000000000000.0
    >>> peak_flops("NVIDIA L4", "float32"), peak_flops("AMD EPYC", "bfloat16")
    (30300000000000.0, None)
    """
    gpu = find_gpu(name)
    return None if gpu is None else gpu.peak_flops("bf16" if dtype == "bfloat16" else "float32")


def device_peak(device: torch.device, dtype: str) -> float | None:
    """Peak of this process's device; None for CPUs and unknown GPUs."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
