"""Batches in an order of positions -> loops over passes, one position as the state, batches that are taken once."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self

from headrace.errors import ConfigError, OrderError, ResumeError, WorkerError
from headrace.load.batch import Array, Batch
from headrace.load.callers import (
    WITH_ACCELERATE,
    WITH_LIGHTNING,
    called_by_accelerate,
    called_by_lightning,
    handed_on_to_lightning,
    iterated_by_accelerate,
    read_by_lightning,
)
from headrace.load.distributed import check_rank, check_workers
from headrace.load.forks import fork_count
from headrace.load.options import MAX_POSITION, checked_int
from headrace.load.progress import Progress
from headrace.order import OrderSpec, position_from_state, state_from_position

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace.load.device import DevicePlacement
    from headrace.load.host import HostPlacement
    from headrace.load.indices import IndexStream
    from headrace.load.prefetch import Prefetcher

_ENDLESS_BATCHES = 1 << 40
"""Length that Lightning sees of an endless loader."""


class StatefulBatches(ABC, Generic[Array]):
    """What a loader does with its position: loops, `next`, `len`, `seek`, its state, its end.

    A subclass says what the rows are and makes the batches: it sets `_index`, `_placement` and `_prefetcher` for the
    present batch size, and makes them again in `_restart`.
    """

    epochs: int | None
    rank: int
    world_size: int
    _rank_given: bool
    _index: IndexStream
    _placement: HostPlacement | DevicePlacement
    _prefetcher: Prefetcher

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows of one epoch, over all ranks."""

    @abstractmethod
    def _order_spec(self, position: int) -> OrderSpec:
        """What fixes the order, up to a position."""

    @abstractmethod
    def _restart(self) -> None:
        """Drop what was made ahead; the next batch is made for the position."""

    def _begin_at_zero(self) -> None:
        self._progress = Progress(None if self.epochs is None else self.epochs * self.num_rows)
        self._lock = threading.RLock()
        self._closed = False
        self._began: int | None = None

    # --- position and state ---

    @property
    def position(self) -> int:
        """Rows of the global order taken so far, over all ranks and epochs."""
        return self._progress.position

    @property
    def epoch(self) -> int:
        """Epoch of the next batch's first row: `for epoch in range(loader.epoch, 3)` goes on after a resume."""
        progress = self._progress
        if progress.end is not None and not self._index.steps(progress.position, progress.end):
            return max(progress.position, progress.end) // self.num_rows
        return progress.position // self.num_rows

    @property
    def batches_per_pass(self) -> int | None:
        """Batches of a whole pass, the same on every rank; None where the loader is endless."""
        return None if self.epochs is None else self._index.steps(0, self.epochs * self.num_rows)

    def __len__(self) -> int:
        """Batches of the loop that is under way, or else of the next one; the same on every rank.

        After `seek` or `load_state_dict` these are the batches that are left of the pass.

        Raises:
            TypeError: the loader is endless.
        """
        progress, whole = self._progress, self.batches_per_pass
        if called_by_lightning():
            # Counts the batches before a resume itself. From what has no length it takes a batch ahead.
            return _ENDLESS_BATCHES if whole is None else whole
        if whole is None:
            raise TypeError("this loader is endless (epochs=None) and has no length. Give epochs=")
        steps = self._index.steps(progress.begin, progress.end)
        return whole if steps is None or progress.is_whole_next else steps

    def seek(self, position: int) -> None:
        """Go to a position of the global order; the next batch begins there.

        Raises:
            OrderError: not an integer from 0 to 2**62.
        """
        try:
            position = checked_int("position", position, low=0, high=MAX_POSITION)
        except ConfigError as error:
            raise OrderError(f"seek: {error}") from None
        with self._lock:
            self._progress.seek(position)
            self._restart()

    def state_dict(self) -> dict[str, int | str]:
        """The position and what fixes the order: at most 256 bytes of JSON, the same on every rank."""
        position = self._progress.position
        return state_from_position(position, self._order_spec(position))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on at a saved position, on any number of ranks and with any batch size.

        Raises:
            ResumeError: not a loader's state, or one of another store, tokenizer, seq_len, seed, shuffle, packing
                or mixture.
        """
        if not hasattr(state, "get"):
            raise ResumeError(
                f"load_state_dict: expected the dict of Loader.state_dict(), got {type(state).__name__}"
            )
        position = state.get("position")
        spec = self._order_spec(position if isinstance(position, int) else 0)
        position = position_from_state(state, spec)
        if position > MAX_POSITION:
            raise ResumeError(f"loader state: position {position}, expected at most 2**62. Is it damaged?")
        self.seek(position)

    # --- batches ---

    def __iter__(self) -> Iterator[Batch[Array]]:
        """A loop over the next pass, or over the rest of one after `seek`, `load_state_dict` or `next(loader)`.

        Raises:
            ConfigError: a DataLoader of accelerate iterates it, which would shard its batches again; or something
                that Lightning iterates, which would not be resumed where it was.
        """
        if iterated_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)
        if handed_on_to_lightning():
            return map(_refuse, [None])  # at the first batch: Lightning hides what raises before
        with self._lock:
            progress = self._progress
            loop: BatchIterator[Array] = BatchIterator(self)
            left = progress.end is None or self._index.steps(progress.position, progress.end)
            progress.begin_loop(loop, has_batches=bool(left))
            loop.end = progress.end
            return loop

    def __next__(self) -> Batch[Array]:
        """This rank's rows of the next global batch.

        Raises:
            StopIteration: the pass is at its end.
            ShardError: a block is damaged; the position stays, and the next call tries again.
            ConfigError: torch.distributed says another rank than the loader was made for, or the loader is closed; and
                see `__iter__`.
            WorkerError: called in a forked child of the process that took the first batch.
        """
        if iterated_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)
        if handed_on_to_lightning():
            raise ConfigError(WITH_LIGHTNING)
        return self.take(self._progress.end)

    def __getitem__(self, index: object) -> NoReturn:
        """Not supported: a loader is iterated.

        Raises:
            ConfigError: always; torch's DataLoader and the Trainer of transformers call this.
        """
        raise ConfigError(
            "a Loader is iterated, not indexed: it shuffles, batches and shards by itself. Loops and trainers take "
            "the loader in a DataLoader's place; where a DataLoader is insisted on, write "
            "headrace.interop.torch.dataloader(loader); for transformers, headrace.interop.hf.Trainer(...)"
        )

    def __getattr__(self, name: str) -> NoReturn:
        # accelerate looks for set_epoch on the dataset of a DataLoader before it iterates that; for the others where
        # its prepare_data_loader or skip_first_batches gets the loader.
        if name in ("set_epoch", "dataset", "batch_sampler", "sampler") and called_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def take(self, end: int | None) -> Batch[Array]:
        """The batch at the position, of a pass that ends at `end`; iterators of the loader call this.

        Raises:
            StopIteration: the pass is at its end.
        """
        if self._began != fork_count():
            self._begin()
        progress, position, after = self._progress, -1, -1
        try:
            with self._lock:
                position = progress.position
                taken = self._prefetcher.take(position, end)
                if taken is not None:
                    batch, ready = taken
                    if ready is not None:  # the event after which the copy to the device is done
                        self._placement.arrive(batch.tokens, ready)
                    after = position + batch.global_rows
                    if end is not None and after > end:  # last="repeat": the next pass reads these rows again
                        after = end
                    progress.position = after
                    return batch
                if end == progress.end:
                    progress.finish()
        except BaseException:
            # Ctrl-C may come at any instruction: a batch that was not returned is not taken.
            with self._lock:
                if progress.position == after:
                    progress.position = position
                self._prefetcher.close()
            raise
        raise StopIteration

    def end_loop(self, loop: BatchIterator[Array]) -> None:
        """An iterator has reached the end of its pass."""
        self._progress.end_loop(loop)

    def _begin(self) -> None:
        """Check once, at the first batch; a loader that has not begun may be forked or sent to another process."""
        if self._closed:
            raise ConfigError("this loader is closed; make another one")
        if self._began is not None:
            raise WorkerError(
                f"this loader began in another process and is used in its forked child {os.getpid()}: both "
                "would read the same rows. Make the loader in the process that uses it"
            )
        if not self._rank_given:
            check_workers()
            check_rank(self.rank, self.world_size)
        self._began = fork_count()

    # --- end ---

    def close(self) -> None:
        """End the threads and drop what was made ahead; the store stays open. A second call does nothing."""
        self._closed = True
        self._began = None
        self._prefetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BatchIterator(Generic[Array]):
    """One loop over a loader: the batches up to the end of its pass."""

    __slots__ = ("__weakref__", "_done", "_is_first", "_loader", "_made_by_lightning", "end")

    def __init__(self, loader: StatefulBatches[Array]) -> None:
        self._loader = loader
        self._done = False
        self._is_first = True
        self._made_by_lightning = called_by_lightning()
        self.end: int | None = None
        """Position at which the pass ends."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch[Array]:
        if self._done:
            raise StopIteration
        if self._is_first:
            if not self._made_by_lightning and read_by_lightning():
                raise ConfigError(WITH_LIGHTNING)
            self._is_first = False
        try:
            return self._loader.take(self.end)
        except StopIteration:
            self._done = True
            self._loader.end_loop(self)
            raise


def _refuse(_: None) -> Any:
    raise ConfigError(WITH_LIGHTNING)
