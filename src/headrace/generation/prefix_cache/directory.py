"""Blocks of keys and values -> files of a directory that the processes of a machine share, and back.

Files are written by a thread of the background, each renamed into place when it is whole: a kill leaves whole blocks
or none. Every block that is read is compared with its checksum, its key and its model; one that differs is removed, and
the caller computes it again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from headrace.errors import ConfigError
from headrace.generation.prefix_cache.block_file import BlockDamagedError, decode_block, encode_block
from headrace.generation.prefix_cache.token_hashes import KEY_FORMAT
from headrace.paths import is_url, local_path
from headrace.storage import NodeCache

logger = logging.getLogger("headrace.cache")

PENDING_BYTES: Final = 512 << 20
"""Blocks that wait to be written; where a disk is slower than the model, more are not stored now."""


class BlockDirectory:
    """Blocks of one model in a directory; blocks of other models may be beside them.

    Args:
        directory: local; shared by the processes of one machine, and kept over restarts.
        max_bytes: bound of all blocks in it; the least recently used are removed first.
        model: identifies the weights and the arithmetic.
        dtype: of keys and values.
        shape: of a block.
        device: where blocks are needed.

    Raises:
        ConfigError: the directory cannot be used, or a block does not fit into the bound.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_bytes: int,
        model: str,
        dtype: torch.dtype,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        pending_bytes: int = PENDING_BYTES,
    ) -> None:
        if is_url(directory):
            raise ConfigError(
                f"prefix_cache: {directory} is a URL; expected a local directory. Several processes of a machine may "
                "share one."
            )
        size = torch.Size(shape).numel() * dtype.itemsize
        if max_bytes < size:
            raise ConfigError(
                f"prefix_cache_disk_bytes is {max_bytes}; a block of this model has {size} bytes. Give more, or leave "
                "prefix_cache out."
            )
        self._dtype, self._shape, self._device, self._block_bytes = dtype, tuple(shape), device, size
        self._header = {"model": model, "dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}
        self.path = local_path(directory, name="prefix_cache").absolute()
        with suppress(OSError):  # NodeCache refuses a directory that cannot be made
            # Prompts can be guessed from their keys and values: other users must not read them.
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = NodeCache(
            self.path, max_bytes=max_bytes, next_uses=dict, key_format=KEY_FORMAT, option="prefix_cache"
        )
        self._max_pending = max(1, pending_bytes // size)
        self._chains: deque[Sequence[tuple[str, Tensor]]] = deque()
        self._pending = 0
        self._changed = threading.Condition()
        self._failed = False
        threading.Thread(target=self._write_all, name="prefix-cache", daemon=True).start()

    def read(self, key: str) -> Tensor | None:
        """A block; None where it is not there, or damaged."""
        content = self._files.get(key)
        if content is None:
            return None
        try:
            block = decode_block(content, self._header_of(key), dtype=self._dtype, shape=self._shape)
        except BlockDamagedError as error:
            logger.warning("prefix cache: %s: %s; it is computed again", self._files.path_of(key), error)
            self._files.drop(key)
            return None
        return block.to(self._device)

    def write_later(self, chain: Sequence[tuple[str, Tensor]]) -> bool:
        """Store the blocks of a prompt that are not stored, and mark all as used; False where too many wait.

        Args:
            chain: keys and blocks, a prompt's first block first; the blocks are not changed afterwards.
        """
        with self._changed:
            if self._pending and self._pending + len(chain) > self._max_pending:
                return False
            self._pending += len(chain)
            self._chains.append(chain)
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until every block is written; False when that takes longer than the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_s)

    def _header_of(self, key: str) -> Mapping[str, Any]:
        return {"key": key, **self._header}

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chains)
                chain = self._chains.popleft()
            try:
                for key, block in chain:
                    self._write(key, block)
                for key, _ in reversed(chain):  # a chain is removed from its end
                    self._files.touch(key)
            except Exception as error:  # noqa: BLE001 - the cache is a help; generation goes on without it
                self._warn(str(error) or repr(error))
            finally:
                with self._changed:
                    self._pending -= len(chain)
                    self._changed.notify_all()

    def _write(self, key: str, block: Tensor) -> None:
        if self._files.has(key) or not self._files.claim(key):
            return  # it is there, or another process writes it
        try:
            if not self._files.has(key) and not self._files.put(
                key, encode_block(block, self._header_of(key))
            ):
                self._warn("a block cannot be written")
        finally:
            self._files.release(key)

    def _warn(self, reason: str) -> None:
        if not self._failed:  # once: a full disk would fill the log
            self._failed = True
            logger.warning("prefix cache: %s: %s. Blocks are kept in memory only.", self.path, reason)
