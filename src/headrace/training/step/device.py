"""Names of a device and a dtype -> this process's torch device, and the dtype of its matrix products."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from headrace.errors import ConfigError
from headrace.model import limit_threads


def resolve_device(name: str | None) -> torch.device:
    """This process's device: on a machine of several GPUs, the one of its local rank. Threads are limited, too.

    Raises:
        ConfigError: no such device, or not on this machine.
    """
    limit_threads()
    requested = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ConfigError(
            f"train: no device named {requested!r}. Give cpu or cuda, or leave it out."
        ) from error
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"train: device {requested!r}, number {local}, but torch sees {torch.cuda.device_count()} GPUs "
                f"here. Start at most that many processes a machine, or give cpu."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    return device


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """float32 or bfloat16; auto takes bfloat16 where the device multiplies it natively.

    A CPU without AVX512-BF16 or AMX emulates it: measured 12 GFLOP/s against 53 in float32 (AVX2).
    """
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch has no public name for these yet; a version without them trains in float32.
        checks = (
            getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        native = device.type == "cpu" and any(check() for check in checks if check is not None)
    return "bfloat16" if native else "float32"


def autocast(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in dtype; normalisation, loss and weights stay float32."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))
