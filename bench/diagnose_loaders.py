"""A cause and a time -> loaders that take so long for a batch because of it."""

from __future__ import annotations

import itertools
import mmap
import os
import socket
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

STEP_S = 0.015
"""A step waits so long, as a host does for its accelerator."""


class Timed:
    """A loader in the loop's thread: `work(until_s)` goes on until a batch's time is up; its seconds are summed."""

    def __init__(self, work: Any, load_s: float, batches: int) -> None:
        self.work, self.load_s, self.batches = work, load_s, batches
        self.spent: list[float] = []

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Any:
        for number_of_batch in range(self.batches):
            start = time.perf_counter()
            if self.load_s > 0:
                self.work(start + self.load_s)
            self.spent.append(time.perf_counter() - start)
            yield [number_of_batch]


def cold_reads(path: Path) -> Any:
    """Random reads past the page cache."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 18)
    places = itertools.cycle(np.random.default_rng().permutation(path.stat().st_size >> 18).tolist())

    def work(until_s: float) -> None:
        while time.perf_counter() < until_s:
            os.preadv(handle, [buffer], next(places) << 18)

    return work


def slow_server() -> Any:
    """Bytes that a server sends a millisecond apart until a batch is whole."""
    server = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(server.getsockname())
    theirs, _ = server.accept()
    server.close()
    for end in (ours, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve() -> None:
        while wanted := theirs.recv(64):
            until_s = float(wanted)
            while time.perf_counter() < until_s - 0.001:
                time.sleep(0.001)
                theirs.send(b"x" * 100)
            time.sleep(max(0.0, until_s - time.perf_counter()))
            theirs.send(b"e")

    threading.Thread(target=serve, daemon=True).start()

    def work(until_s: float) -> None:
        ours.send(repr(until_s).encode())
        while not ours.recv(4096).endswith(b"e"):
            pass

    return work


PACKED = zlib.compress(np.random.default_rng(0).integers(0, 50, 400_000, dtype=np.uint8).tobytes())


def unpack(until_s: float) -> None:
    while time.perf_counter() < until_s:
        zlib.decompress(PACKED)


def python_work(until_s: float) -> None:
    total = 0
    while time.perf_counter() < until_s:
        for value in range(2000):
            total += value * value


class Hog:
    """A thread of Python work beside the loop."""

    def __enter__(self) -> None:
        self.stop = False

        def run() -> None:
            while not self.stop:
                sum(value * value for value in range(1000))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop = True
        self.thread.join()


class Busy:
    """A dataset whose items take a processor for some time, or are many arrays that are there already."""

    def __init__(self, *, load_s: float = 0.0, arrays: int = 0, batches: int) -> None:
        self.load_s, self.batches = load_s, batches
        self.ready = [np.zeros(64) for _ in range(arrays)]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Any:
        until_s = time.thread_time() + self.load_s
        while time.thread_time() < until_s:
            zlib.decompress(PACKED)
        return [index, self.ready]


def same(batch: Any) -> Any:
    return batch[0]


def workers_loader(**given: Any) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(Busy(**given), batch_size=1, collate_fn=same, num_workers=1)
