"""torchrun's environment -> the processes of one run: who leads, what they agree on, who died."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore  # torch.distributed re-exports them without saying so
from torch.distributed.checkpoint.api import CheckpointException

from headrace.errors import HeadraceError, WorkerError

T = TypeVar("T")
RENDEZVOUS_S = 120.0
COLLECTIVE_S = 600.0
_ROLL_CALL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The processes of one run; a single process is a group of one and never touches torch.distributed."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """Gloo, all ranks, for what is said between steps; None in a group of one."""
    checkpoint_group: dist.ProcessGroup | None = None
    """Gloo, all ranks, for the checkpoint thread: its messages must not meet training's."""

    @property
    def is_rank0(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Do work in the leader; every rank gets its result, or its error."""
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.is_rank0:
            try:
                box = [work(), None]
            except HeadraceError as error:
                box = [None, error]
        dist.broadcast_object_list(box, src=0, group=self.group)
        if box[1] is not None:
            box[1].shared = not self.is_rank0
            raise box[1]
        result: T = box[0]
        return result

    def on_all_ranks(self, work: Callable[[], T]) -> T:
        """Do work in every rank; when one fails, all raise the first failing rank's error."""
        if self.size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except HeadraceError as caught:
            error = caught
        errors: list[Any] = [None] * self.size
        dist.all_gather_object(errors, error, group=self.group)
        for rank, found in enumerate(errors):
            if found is not None:
                told = found if rank in {0, self.rank} else type(found)(f"rank {rank}: {found}")
                told.shared = not self.is_rank0
                raise told
        return result  # type: ignore[return-value]  # no error, so there is a result

    def gather(self, values: Sequence[float]) -> torch.Tensor:
        """Every rank's values, float64 [ranks, values]."""
        mine = torch.tensor([values], dtype=torch.float64)
        if self.size == 1:
            return mine
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self.group)
        return torch.cat(found)


@contextmanager
def open_process_group(device: torch.device, *, timeout_s: float = COLLECTIVE_S) -> Iterator[ProcessGroup]:
    """The group that torchrun's environment describes; closed at the end.

    A failed collective is turned into an error that names the ranks that no longer answer.

    Args:
        device: cuda adds NCCL for its tensors; gloo carries the rest.
        timeout_s: longest wait for any collective.

    Raises:
        WorkerError: the other processes cannot be reached, or one died.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    rank = int(os.environ["RANK"])
    store = _rendezvous(rank, size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield ProcessGroup(
            rank=rank,
            size=size,
            group=dist.new_group(backend="gloo", timeout=timeout),
            checkpoint_group=dist.new_group(backend="gloo", timeout=timeout),
        )
        dist.barrier()
    except (dist.DistError, RuntimeError, CheckpointException) as error:
        if isinstance(error, HeadraceError):
            raise
        with _deaf_to(signal.SIGTERM):  # torchrun sends it as soon as one rank is dead: first say which
            told = _who_died(store, rank, size, error)
        raise WorkerError(told) from error
    finally:
        dist.destroy_process_group()


@contextmanager
def _deaf_to(number: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _rendezvous(rank: int, size: int) -> Store:
    host, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    # Under torchrun its agent holds the store; alone, rank 0 does.
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    wait_s = float(os.environ.get("HEADRACE_RENDEZVOUS_S", RENDEZVOUS_S))
    try:
        if rank or by_agent:
            _reach(host, port, wait_s)
        return TCPStore(
            host, port, size, is_master=rank == 0 and not by_agent, timeout=timedelta(seconds=wait_s)
        )
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        raise WorkerError(
            f"rank {rank} of {size}: cannot meet the others at {host or 'an unset MASTER_ADDR'}:{port} within "
            f"{wait_s:.0f} s ({str(error).splitlines()[0]}). Is rank 0 running, and can {socket.gethostname()} "
            f"reach it? See MASTER_ADDR and MASTER_PORT, or torchrun's --rdzv-endpoint."
        ) from error


def _reach(host: str, port: int, wait_s: float) -> None:
    """Until somebody listens there; torch's own waiting prints a C++ stack for every attempt.

    Raises:
        OSError: nobody did.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, until - time.monotonic())).close()
        except OSError:
            if time.monotonic() + 0.2 > until:
                raise
            time.sleep(0.2)
        else:
            return


def _who_died(store: Store, rank: int, size: int, error: BaseException) -> str:
    """After a failed collective every living rank signs; who has not signed after a while is dead."""
    # Gloo begins with the place in its source and ends with advice; what happened stands between.
    said = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).split(". ")[0][:200]
    try:
        store.set(f"headrace/alive/{rank}", "1")
        until = time.monotonic() + _ROLL_CALL_S
        missing = [other for other in range(size) if other != rank]
        while missing and time.monotonic() < until:
            missing = [other for other in missing if not store.check([f"headrace/alive/{other}"])]
            time.sleep(0.05)
    except (dist.DistError, RuntimeError):
        return f"rank {rank} of {size}: rank 0, which holds the rendezvous, no longer answers ({said})."
    if not missing:
        return f"rank {rank} of {size}: a collective failed though every rank is alive: {said}"
    names = ", ".join(map(str, missing))
    return (
        f"rank {rank} of {size}: rank {names} no longer answers ({said}). Its own output says why; "
        f"the same command continues from the last checkpoint."
    )
