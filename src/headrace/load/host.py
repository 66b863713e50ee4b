"""Tokens in the stored type, in host memory -> int64 inputs and labels: torch tensors or NumPy arrays."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.load.buffers import BufferPool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headrace.load.options import Framework

IGNORED = -100
"""Label that torch's cross_entropy ignores by default (ignore_index)."""


def use_torch(framework: Framework) -> bool:
    """Whether arrays are torch tensors: "auto" is torch where it is installed, else NumPy.

    Raises:
        ConfigError: "torch", and torch is not installed.
    """
    installed = framework != "numpy" and find_spec("torch") is not None
    if framework == "torch" and not installed:
        raise ConfigError('framework="torch", but torch is not installed: pip install "headrace[train]"')
    return installed


class HostPlacement:
    """Leaves tokens in the memory that they were read into; torch is imported when ids are first widened.

    Args:
        rows: rows of a full batch, for which buffers are used again.
        width: T + 1.
        torch: whether arrays become torch tensors.
    """

    def __init__(self, *, rows: int, width: int, torch: bool) -> None:
        # One buffer holds inputs and labels, so that a batch takes one from the pool.
        self._wide = BufferPool((2, rows, width - 1), np.int64, keep=4)
        self._shape = (rows, width)
        self.torch = torch

    def buffer(self, rows: int) -> None:
        """None: rows are read into an array of their own."""

    def place(self, tokens: NDArray[Any]) -> tuple[NDArray[Any], None]:
        """The tokens as they are; there is nothing to wait for."""
        return tokens, None

    def widen(
        self,
        tokens: NDArray[Any],
        *,
        masked: NDArray[np.bool_] | None = None,
        keep: NDArray[np.bool_] | None = None,
    ) -> tuple[Any, Any]:
        """Inputs and labels, each contiguous, each written once.

        Args:
            tokens: [B, T + 1].
            masked: [B, T]: places whose label becomes -100.
            keep: [B, T]: places that are kept, flattened to [1, N]; all, as [B, T], where None.

        Returns:
            input_ids and labels, int64.
        """
        rows, width = tokens.shape
        pair = self._wide.take() if tokens.shape == self._shape else np.empty((2, rows, width - 1), np.int64)
        np.copyto(pair[0], tokens[:, :-1])
        np.copyto(pair[1], tokens[:, 1:])
        if masked is not None:
            pair[1][masked] = IGNORED
        if keep is not None:
            pair = pair[:, keep][:, None]
        return self.array(pair[0]), self.array(pair[1])

    def arrive(self, tokens: NDArray[Any], ready: Any) -> None:
        """Does nothing: tokens in host memory are complete."""

    def array(self, values: NDArray[Any]) -> Any:
        """A tensor over the same memory, or the array itself."""
        if not self.torch:
            return values
        import torch

        return torch.from_numpy(values)
