"""The launcher's environment -> a key-value store that the processes of one attempt share.

torchrun keeps one TCPStore over all restarts of a job, so that keys of a dead attempt are still in it. Each
attempt has a prefix of its own that rank 0 makes up and gives to the ranks that join it.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist
from torch._C._distributed_c10d import (  # torch.distributed re-exports them without saying so
    PrefixStore,
    Store,
    TCPStore,
)

from headrace.errors import ConfigError, WorkerError

RENDEZVOUS_S = 120.0
JOIN_S = 600.0
_JOINING = "headrace/joining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the launcher says about this process."""

    rank: int
    size: int
    host: str
    port: int
    agent_holds_store: bool
    """torchrun's agent holds the store; without an agent rank 0 does."""
    wait_s: float
    """How long the store may take to be reachable."""


def read_launch() -> Launch | None:
    """The launch that torchrun's environment describes; None for a single process.

    Raises:
        ConfigError: the environment describes a part of a launch only.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"train: WORLD_SIZE is {size}, but {', '.join(missing)} is not set. Start it with torchrun, or "
            f"unset WORLD_SIZE for a single process."
        )
    rank = _number("RANK", 0)
    if not 0 <= rank < size:
        raise ConfigError(f"train: RANK is {rank}; expected from 0 to WORLD_SIZE - 1 = {size - 1}.")
    return Launch(
        rank=rank,
        size=size,
        host=os.environ["MASTER_ADDR"],
        port=_number("MASTER_PORT", 0),
        agent_holds_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        wait_s=float(os.environ.get("HEADRACE_RENDEZVOUS_S", RENDEZVOUS_S)),
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"train: {name} is {text!r}; expected a whole number.") from None


class AttemptStore:
    """The keys of one attempt; each thread that waits for keys has a client of its own (`clone`)."""

    def __init__(self, launch: Launch, attempt: str, client: Store) -> None:
        self._launch = launch
        self._attempt = attempt
        # The server lives as long as the client that began it.
        self._client = client
        self.keys = PrefixStore(f"headrace/{attempt}", client)

    @classmethod
    def join(cls, launch: Launch) -> AttemptStore:
        """Connect, and agree with the other ranks on the attempt.

        Raises:
            WorkerError: the store or the other ranks cannot be reached.
        """
        client = _connect(launch, is_server=launch.rank == 0 and not launch.agent_holds_store)
        attempt = _begin_attempt(launch, client) if launch.rank == 0 else _join_attempt(launch, client)
        return cls(launch, attempt, client)

    def clone(self) -> AttemptStore:
        """The same keys by another connection: a client that waits blocks its other users."""
        return AttemptStore(self._launch, self._attempt, _connect(self._launch, is_server=False))


def _connect(launch: Launch, *, is_server: bool) -> TCPStore:
    try:
        if not is_server:
            _reach(launch.host, launch.port, launch.wait_s)
        return TCPStore(
            launch.host,
            launch.port,
            is_master=is_server,
            wait_for_workers=False,
            timeout=timedelta(seconds=launch.wait_s),
        )
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        raise WorkerError(
            f"rank {launch.rank} of {launch.size}: cannot meet the others at {launch.host}:{launch.port} within "
            f"{launch.wait_s:.0f} s ({str(error).splitlines()[0]}). Is rank 0 running, and can "
            f"{socket.gethostname()} reach it? See MASTER_ADDR and MASTER_PORT, or torchrun's --rdzv-endpoint."
        ) from error


def _reach(host: str, port: int, wait_s: float) -> None:
    """Wait until a server listens; torch's own waiting prints a C++ stack for every attempt.

    Raises:
        OSError: none did.
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


def _begin_attempt(launch: Launch, client: TCPStore) -> str:
    """Make up an attempt and give it to every rank that joins.

    All workers of an attempt are dead before torchrun starts the next ones, so a rank that still waits for
    a reply belongs to this attempt. Replies to ranks that died while they joined are read by none.
    """
    attempt = uuid.uuid4().hex
    replied: set[str] = set()
    until = time.monotonic() + JOIN_S
    while (joined := client.add(f"headrace/{attempt}/joined", 0)) < launch.size - 1:
        names = client.get(_JOINING).decode().split() if client.check([_JOINING]) else []
        for name in names:
            if name not in replied:
                client.set(f"headrace/reply/{name}", attempt)
                replied.add(name)
        if time.monotonic() > until:
            raise WorkerError(
                f"rank 0 of {launch.size}: {joined} of {launch.size - 1} other ranks joined within {JOIN_S:.0f} s. "
                f"Their own output says why."
            )
        time.sleep(0.02)
    return attempt


def _join_attempt(launch: Launch, client: TCPStore) -> str:
    name = f"{launch.rank}-{uuid.uuid4().hex}"
    try:
        cast("Any", client).append(_JOINING, f"{name} ")
        client.wait([f"headrace/reply/{name}"], timedelta(seconds=JOIN_S))
        attempt = client.get(f"headrace/reply/{name}").decode()
        client.add(f"headrace/{attempt}/joined", 1)
    except (dist.DistError, RuntimeError) as error:
        raise WorkerError(
            f"rank {launch.rank} of {launch.size}: rank 0 does not answer at {launch.host}:{launch.port} "
            f"({str(error).splitlines()[0]}). Its own output says why."
        ) from error
    return attempt
