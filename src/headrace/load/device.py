"""Tokens in host memory -> the same on a torch device, copied on a stream of its own and widened there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigError
from headrace.load.host import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DevicePlacement:
    """Copies tokens in the stored type, so that 2 bytes a token cross the bus and not 16, and widens on the device.

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
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ConfigError(
                f"device={device!r}: torch cannot use it here: {error}. A device of JAX goes to "
                "headrace.interop.jax.jax_batches(loader, sharding=device)"
            ) from error
        self._width = width
        self._dtype = dtype
        # torch has few kernels for unsigned types: the bits are copied as a signed type, and masked when widened.
        self._signed, self._mask = (
            (torch.int16, 0xFFFF) if dtype.itemsize == 2 else (torch.int32, 0xFFFF_FFFF)
        )
        self._in_flight: deque[Any] = deque()
        self._cuda = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if self._cuda else None  # type: ignore[no-untyped-call]

    torch = True

    def buffer(self, rows: int) -> NDArray[Any]:
        """An array [rows, T + 1] to fill, pinned for CUDA."""
        import torch

        # torch's host allocator caches pinned memory: only the first few of these are slow.
        host = torch.empty((rows, self._width), dtype=self._signed, pin_memory=self._cuda)
        array: NDArray[Any] = host.numpy().view(self._dtype)
        return array

    def place(self, tokens: NDArray[Any]) -> tuple[Any, Any]:
        """The tokens on the device, and the event after which they are there (None: they are there)."""
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
        """Make the current stream wait for the copy, and keep both ends of the copy alive until it is done."""
        if ready is not None:
            import torch

            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(ready[0])
            tokens.record_stream(stream)
            # The copy reads the pinned memory until its event, so the buffer is kept until then.
            self._in_flight.append(ready)
            while self._in_flight and self._in_flight[0][0].query():
                self._in_flight.popleft()

    def widen(
        self, tokens: Any, *, masked: NDArray[np.bool_] | None = None, keep: NDArray[np.bool_] | None = None
    ) -> tuple[Any, Any]:
        """Inputs and labels on the device; see `HostPlacement.widen`."""
        import torch

        wide = tokens.view(self._signed).to(torch.int64) & self._mask
        inputs, labels = wide[:, :-1].contiguous(), wide[:, 1:].contiguous()
        if masked is not None:
            labels[self.array(masked)] = IGNORED
        if keep is not None:
            kept = self.array(keep)
            inputs, labels = inputs[kept][None], labels[kept][None]
        return inputs, labels

    def array(self, values: NDArray[Any]) -> Any:
        """A tensor of the values on the device."""
        import torch

        return torch.from_numpy(values).to(self.device)
