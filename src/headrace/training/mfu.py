"""A device's name -> its peak FLOP/s, of which MFU is the share that a step used."""

from __future__ import annotations

import torch

# Dense matrix products, FLOP/s, from the makers' data sheets; (bfloat16, float32 with TF32 off).
PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250e12, 75e12),
    "GB200": (2500e12, 80e12),
    "H200": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10G": (70e12, 31.2e12),
    "A10": (125e12, 31.2e12),
    "MI300X": (1307e12, 163.4e12),
}


def peak_flops(name: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device by name; None for devices that are not in the table: nothing is guessed.

    >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")
    989000000000000.0
    >>> peak_flops("NVIDIA L4", "float32"), peak_flops("AMD EPYC", "bfloat16")
    (30300000000000.0, None)
    """
    words = name.replace("-", " ").split()
    # The longest name first: an H100 PCIe is slower than the H100 that "H100" alone means.
    for known in sorted(PEAKS, key=len, reverse=True):
        if all(word in words for word in known.split()):
            return PEAKS[known][0 if dtype == "bfloat16" else 1]
    return None


def device_peak(device: torch.device, dtype: str) -> float | None:
    """Peak of this process's device; None for CPUs and unknown GPUs."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
