"""Tokens in the stored type -> int64 inputs and labels, as torch tensors or NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError

Framework = Literal["auto", "torch", "numpy"]
Widen = Callable[[NDArray[Any]], tuple[Any, Any]]


def widener(framework: Framework) -> Widen:
    """The function that makes input_ids and labels of a batch's tokens.

    Args:
        framework: "auto" is torch where it is installed, else NumPy. torch is imported at the first batch
            whose ids are asked for.

    Raises:
        ConfigError: an unknown framework, or torch asked for where it is not installed.
    """
    if framework not in ("auto", "torch", "numpy"):
        raise ConfigError(f'framework={framework!r}: use "auto", "torch" or "numpy"')
    installed = framework != "numpy" and find_spec("torch") is not None
    if framework == "torch" and not installed:
        raise ConfigError('framework="torch", but torch is not installed: pip install "headrace[train]"')
    return _torch if installed else _numpy


def _numpy(tokens: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    wide = tokens.astype(np.int64)
    return wide[:, :-1], wide[:, 1:]


def _torch(tokens: NDArray[Any]) -> tuple[Any, Any]:
    import torch

    wide = torch.from_numpy(tokens.astype(np.int64))
    return wide[:, :-1], wide[:, 1:]
