"""torchrun's environment -> the processes of one run, what they agree on, and which of them died."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from headrace.errors import HeadraceError, WorkerError
from headrace.training.distributed.liveness import Heartbeat, Liveness, is_network_error
from headrace.training.distributed.rendezvous import AttemptStore, read_launch

T = TypeVar("T")
COLLECTIVE_S = 600.0
"""Longest wait in a collective. No collective waits for a disk or an upload: ranks wait for those by keys,
for as long as the other ranks live."""


@dataclass(slots=True, kw_only=True)
class ProcessGroup:
    """The processes of one run, for one thread; a single process never touches torch.distributed."""

    rank: int = 0
    size: int = 1
    collectives: dist.ProcessGroup | None = None
    """Gloo, all ranks; None for a single process."""
    store: AttemptStore | None = None
    for_checkpoints: ProcessGroup | None = None
    """The same processes for the checkpoint thread: its messages must not meet those of training."""
    _calls: int = field(default=0, init=False)
    _liveness: Liveness | None = field(default=None, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def is_rank0(self) -> bool:
        """Whether this process writes the files that are written once."""
        return self.rank == 0

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Do work in rank 0, however long it takes; every rank gets its result, or its error."""
        if self.size == 1:
            return work()
        key, keys = self._next_key(), self._keys
        if self.is_rank0:
            outcome: tuple[Any, HeadraceError | None]
            try:
                outcome = (work(), None)
            except HeadraceError as error:
                outcome = (None, error)
            except BaseException as error:
                failure = WorkerError(f"rank 0: {type(error).__name__}: {error}")
                keys.set(key, pickle.dumps((None, failure)))
                raise
            keys.set(key, pickle.dumps(outcome))
        else:
            self._wait(key)
            outcome = pickle.loads(keys.get(key))  # noqa: S301  # of this run's own rank 0, as torch does
        result: Any = outcome[0]
        if (error_of_rank0 := outcome[1]) is not None:
            error_of_rank0.shared = not self.is_rank0
            raise error_of_rank0
        return cast("T", result)

    def on_all_ranks(self, work: Callable[[], T]) -> T:
        """Do work in every rank, however long it takes; if some fail, all raise the first one's error."""
        if self.size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except HeadraceError as raised:
            error = raised
        key, keys = self._next_key(), self._keys
        if error is not None:
            keys.set(f"{key}/error/{self.rank}", pickle.dumps(error))
            keys.add(f"{key}/errors", 1)
        if keys.add(f"{key}/done", 1) == self.size:
            keys.set(f"{key}/all", "1")
        self._wait(f"{key}/all")
        if keys.add(f"{key}/errors", 0):
            self._raise_first_error(key, error)
        return cast("T", result)

    def wait_for_all(self) -> None:
        """Wait until every rank is here, for as long as they live: before a collective that follows slow work."""
        self.on_all_ranks(lambda: None)

    def stop_waiting(self) -> None:
        """Let the thread that this group is for wait for no other rank any more: called by another thread."""
        self._stopped.set()

    def gather(self, values: Sequence[float]) -> torch.Tensor:
        """Every rank's values, float64 [ranks, values]."""
        mine = torch.tensor([values], dtype=torch.float64)
        if self.size == 1:
            return mine
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(gathered, mine, group=self.collectives)
        return torch.cat(gathered)

    def _raise_first_error(self, key: str, own: HeadraceError | None) -> None:
        for rank in range(self.size):
            if not self._keys.check([f"{key}/error/{rank}"]):
                continue
            error: HeadraceError = pickle.loads(self._keys.get(f"{key}/error/{rank}"))  # noqa: S301
            if rank == self.rank and own is not None:
                error = own
            elif rank != 0:
                error = type(error)(f"rank {rank}: {error}")
            error.shared = not self.is_rank0
            raise error

    @property
    def _keys(self) -> Any:
        assert self.store is not None
        return self.store.keys

    def _next_key(self) -> str:
        self._calls += 1
        return f"{'checkpoint' if self.for_checkpoints is None else 'call'}/{self._calls}"

    def _wait(self, key: str) -> None:
        assert self.store is not None
        if self._liveness is None:
            self._liveness = Liveness(self.store, self.rank, self.size, stopped=self._stopped)
        self._liveness.wait(key)


@contextmanager
def open_process_group(device: torch.device, *, timeout_s: float = COLLECTIVE_S) -> Iterator[ProcessGroup]:
    """The processes that torchrun's environment describes; closed at the end.

    A failed collective is turned into an error that names the ranks that no longer answer.

    Args:
        device: cuda adds NCCL for its tensors; gloo carries the rest.
        timeout_s: longest wait for any collective.

    Raises:
        ConfigError: the environment describes a part of a launch only.
        WorkerError: the other processes cannot be reached, or one died.
    """
    launch = read_launch()
    if launch is None:
        yield ProcessGroup()
        return
    rank, size = launch.rank, launch.size
    store = AttemptStore.join(launch)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    with Heartbeat(store, rank):
        try:
            dist.init_process_group(backend, store=store.keys, rank=rank, world_size=size, timeout=timeout)
            group = ProcessGroup(
                rank=rank,
                size=size,
                collectives=dist.new_group(backend="gloo", timeout=timeout),
                store=store,
                for_checkpoints=ProcessGroup(
                    rank=rank,
                    size=size,
                    collectives=dist.new_group(backend="gloo", timeout=timeout),
                    store=store.clone(),
                ),
            )
            yield group
            group.wait_for_all()
        except (dist.DistError, RuntimeError) as error:
            if isinstance(error, HeadraceError) or not is_network_error(error):
                raise
            with _ignoring(signal.SIGTERM):  # torchrun sends it as soon as one rank is dead: first say which
                message = Liveness(store, rank, size).explain(error)
            raise WorkerError(message) from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def _ignoring(number: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
