"""Tokens in the stored type -> the same on a device, copied beside the computation and widened there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigError
from headrace.load.host import IGNORE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DevicePlace:
    """Pinned buffers, a copy stream, and ids widened on the device: the bus carries 2 bytes a token, not 16.

    Raises:
        ConfigError: torch is not installed, or has no such device.
    """

    def __init__(self, device: Any, *, width: int, dtype: np.dtype[Any]) -> None:
        try:
            import torch
        except ImportError as error:
            raise ConfigError(f'device={device!r} needs torch: pip install "headrace[train]"') from error
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device={device!r}: torch cannot use it here: {error}") from error
        self._width = width
        self._dtype = dtype
        # torch has few kernels for unsigned types; the bits travel as signed, and are masked when widened.
        self._signed, self._mask = (
            (torch.int16, 0xFFFF) if dtype.itemsize == 2 else (torch.int32, 0xFFFF_FFFF)
        )
        self._in_flight: deque[Any] = deque()
        self._cuda = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if self._cuda else None  # type: ignore[no-untyped-call]

    def buffer(self, rows: int) -> NDArray[Any]:
        """An array [rows, T + 1] to fill, pinned for CUDA."""
        import torch

        # torch's host allocator caches pinned memory: only the first few of these are slow.
        host = torch.empty((rows, self._width), dtype=self._signed, pin_memory=self._cuda)
        array: NDArray[Any] = host.numpy().view(self._dtype)
        return array

    def place(self, tokens: NDArray[Any]) -> tuple[Any, Any]:
        """The tokens on the device, and the event after which they are there (None: they are)."""
        import torch

        host = torch.from_numpy(tokens.view(tokens.dtype.name.removeprefix("u")))
        unsigned = torch.uint16 if tokens.dtype.itemsize == 2 else torch.uint32
        if self._stream is None:
            return host.to(self.device).view(unsigned), None
        with torch.cuda.stream(self._stream):
            there = host.to(self.device, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return there.view(unsigned), (event, host)

    def arrive(self, tokens: Any, ready: Any) -> None:
        """Make the computation wait for the copy, on the device, and the tokens' memory wait for both."""
        if ready is not None:
            import torch

            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(ready[0])
            tokens.record_stream(stream)
            # The copy reads the pinned memory until its event: it is held until then.
            self._in_flight.append(ready)
            while self._in_flight and self._in_flight[0][0].query():
                self._in_flight.popleft()

    def widen(
        self, tokens: Any, *, masked: NDArray[np.bool_] | None = None, keep: NDArray[np.bool_] | None = None
    ) -> tuple[Any, Any]:
        """Inputs and labels on the device; see `HostPlace.widen`."""
        import torch

        wide = tokens.view(self._signed).to(torch.int64) & self._mask
        inputs, labels = wide[:, :-1].contiguous(), wide[:, 1:].contiguous()
        if masked is not None:
            labels[self.array(masked)] = IGNORE
        if keep is not None:
            kept = self.array(keep)
            inputs, labels = inputs[kept][None], labels[kept][None]
        return inputs, labels

    def array(self, values: NDArray[Any]) -> Any:
        """A tensor of the values on the device."""
        import torch

        return torch.from_numpy(values).to(self.device)
