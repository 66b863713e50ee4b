"""Loops with a known stall and a known cause, and what hr.diagnose says of them.

Claim     The 95 % interval covers the injected stall; the injected limiter is named; the loop pays < 2 % for it.
Run       python bench/diagnose.py
Compares  hr.diagnose, and the cached-batch headspace that SPDL's CacheDataLoader gives (live steps, then steps on one
          cached batch, whose results are thrown away; written here anew: one number, no interval, no cause).
          A step waits 15 ms, as a host does for its accelerator. Each loader takes 0 to 60 % of a step: cold reads from
          disk, a slow TCP server on loopback, zlib, Python work beside a thread that hogs the GIL, a DataLoader that
          hands over many arrays, a DataLoader with one worker while a core is free, and none.
Ceiling   95 % and 100 %; the cost is 0 %.
Reports   Share of trials whose interval covers the truth, share of right names (trials with a stall of at least 5 %),
          the mean half-width, and the processor time that a diagnosis adds, n interleaved pairs. Truth: of a loader in
          the loop's thread, its own clock over the same loop; of worker processes, loops without a diagnosis before
          and after; so it is known within 1 % of a step, which an interval may miss it by.
Cause     {cause}
"""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from measure import DATA, at_least, at_most, number, options, report, say, spread, summary, table

CAUSE = """The interval is as wide as the machine is noisy; names fail where a busy machine delays workers and hand-over
          alike, or where the sampling thread itself gets no core. Measured on a machine that others used at the
          same time."""
STEP_S = 0.015
CAUSES = ("storage", "network", "decompression", "gil", "hand_over", "workers", "none")
ACCEPTED = {
    "storage": {"storage"},
    "network": {"network"},
    "decompression": {"decompression"},
    "gil": {"gil"},
    "hand_over": {"hand_over"},
    "workers": {"workers"},
    "none": {"model"},
}


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


def loop(batches: Any, *, skip: int = 10) -> tuple[float, float]:
    """Run the loop; mean seconds of a step's work and of a whole step."""
    works, cycles, before = [], [], time.perf_counter()
    for _ in batches:
        start = time.perf_counter()
        time.sleep(STEP_S)
        now = time.perf_counter()
        works.append(now - start)
        cycles.append(now - before)
        before = now
    return float(np.mean(works[skip:])), float(np.mean(cycles[skip:]))


def trial(cause: str, share: float, path: Path, steps: int) -> dict[str, Any]:
    """One loop with a diagnosis."""
    import headrace as hr

    load_s = share / (1 - share) * STEP_S
    truth = None
    if cause in ("hand_over", "workers"):
        given = {"load_s": STEP_S / (1 - share)} if cause == "workers" else {"arrays": int(60 + share * 6000)}
        references = []
        for turn in range(2):
            work_s, cycle_s = loop(workers_loader(batches=steps // 2, **given))
            references.append(1 - work_s / cycle_s)
            if turn == 0:
                loader: Any = workers_loader(batches=steps, **given)
                diagnosed = hr.diagnose(loader, verbose=False)
                loop(diagnosed)
                result = diagnosed.result
        truth = float(np.mean(references))
    else:
        work = {
            "storage": lambda: cold_reads(path),
            "network": slow_server,
            "decompression": lambda: unpack,
            "gil": lambda: python_work,
            "none": lambda: unpack,
        }[cause]()
        timed = Timed(work, 0.0 if cause == "none" else load_s, steps)
        diagnosed = hr.diagnose(timed, verbose=False)
        if cause == "gil":
            with Hog():
                work_s, _ = loop(diagnosed)
        else:
            work_s, _ = loop(diagnosed)
        result = diagnosed.result
        loaded_s = float(np.mean(timed.spent[10:]))
        truth = loaded_s / (loaded_s + work_s)
    gc.collect()
    return {
        "cause": cause,
        "injected": share,
        "truth": truth,
        "value": result.stall.value,
        "low": result.stall.low,
        "high": result.stall.high,
        "named": result.finding.limiter,
        "reason": result.finding.reason,
        "method": result.method,
        "steps": result.steps,
        "cost": result.cost,
        "idle_cores": result.evidence.idle_cores,
    }


def cost_pair(steps: int) -> float:
    """Processor time that a diagnosis adds, in percent of the loop's time: A B B A, so that drift cancels.

    Not wall time, which other processes change by far more. The loader does a fixed amount of work for each batch.
    """
    import headrace as hr

    wall_s = []

    def seconds(wrap: bool) -> float:
        def batches() -> Any:
            for number_of_batch in range(steps):
                for _ in range(2):
                    zlib.decompress(PACKED)
                yield [number_of_batch]

        start, cpu_s = time.perf_counter(), time.process_time()
        loop(hr.diagnose(batches(), verbose=False) if wrap else batches())
        wall_s.append(time.perf_counter() - start)
        return time.process_time() - cpu_s

    plain, wrapped = seconds(wrap=False), seconds(wrap=True)
    wrapped_again, plain_again = seconds(wrap=True), seconds(wrap=False)
    return 100 * (wrapped + wrapped_again - plain - plain_again) / (wall_s[0] + wall_s[3])


def headspace(share: float, steps: int) -> float:
    """Share of a step by the cached-batch rule: live steps against steps on one cached batch."""
    timed = Timed(unpack, share / (1 - share) * STEP_S, steps // 2)
    _, live_s = loop(timed)
    _, cached_s = loop([[0]] * (steps // 2))
    return 1 - cached_s / live_s


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--trials", type=int, default=200, help="trials in all")
    parser.add_argument("--steps", type=int, default=120, help="steps of a trial")
    chosen = parser.parse_args()
    trials = len(CAUSES) if chosen.quick else chosen.trials
    steps = 60 if chosen.quick else chosen.steps
    rng = np.random.default_rng(7)
    done: list[dict[str, Any]] = []
    DATA.mkdir(parents=True, exist_ok=True)  # on a disk; /tmp may be memory
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        path = Path(folder) / "cold"
        path.write_bytes(rng.bytes(64 << 20))
        os.sync()
        for i in range(trials):
            cause = CAUSES[i % len(CAUSES)]
            share = 0.0 if cause == "none" else float(rng.uniform(0.0, 0.6))
            one = trial(cause, share, path, steps)
            done.append(one)
            say(
                f"  {i + 1}/{trials} {cause}: truth {one['truth']:.3f}, {one['low']:.3f} to {one['high']:.3f}, "
                f"named {one['named']}"
            )
    cost_pair(20)  # imports
    costs = [cost_pair(60 if chosen.quick else 300) for _ in range(1 if chosen.quick else chosen.repeats)]
    spdl = [(share, headspace(share, steps)) for share in (0.0, 0.15, 0.3, 0.45)]
    report(__file__, **findings(done, costs, spdl, quick=chosen.quick))


def covers(one: dict[str, Any]) -> bool:
    """Within 1 % of a step: so well is the truth known, as it comes from other clocks and other loops."""
    return one["low"] - 0.01 <= one["truth"] <= one["high"] + 0.01


def findings(
    done: list[dict[str, Any]], costs: list[float], spdl: list[tuple[float, float]], *, quick: bool
) -> dict[str, Any]:
    """Tables and goals."""
    lines, right, named = [], 0, 0
    for cause in CAUSES:
        ones = [one for one in done if one["cause"] == cause]
        clear = [one for one in ones if cause == "none" or one["truth"] >= 0.05]
        hits = sum(one["named"] in ACCEPTED[cause] for one in clear)
        right, named = right + hits, named + len(clear)
        others = Counter(one["named"] for one in clear if one["named"] not in ACCEPTED[cause])
        lines.append(
            [
                cause,
                str(len(ones)),
                number(100 * sum(map(covers, ones)) / max(1, len(ones))),
                number(100 * float(np.mean([(one["high"] - one["low"]) / 2 for one in ones]))),
                number(100 * float(np.mean([abs(one["value"] - one["truth"]) for one in ones]))),
                f"{hits} of {len(clear)}",
                ", ".join(f"{name} {count}" for name, count in others.most_common()),
            ]
        )
    covered = 100 * sum(map(covers, done)) / len(done)
    return {
        "doc": __doc__.replace("{cause}", CAUSE),
        "tables": {
            f"{len(done)} trials": table(
                [
                    "injected",
                    "trials",
                    "% covered",
                    "half-width, %",
                    "error, %",
                    "right names",
                    "other names",
                ],
                lines,
            ),
            "cached-batch headspace (SPDL's rule), decompression": table(
                ["injected, %", "says, %"], [[number(100 * a), number(100 * b)] for a, b in spdl]
            ),
            "cost of hr.diagnose": table(
                ["% of the loop", "spread"], [[number(float(np.median(costs))), spread(costs)]]
            ),
        },
        "goals": [
            at_least("95 % interval covers the injected stall", covered, 93, "% of trials"),
            at_least(
                "injected limiter named",
                100 * right / max(1, named),
                95,
                "% of trials",
                "stalls of 5 % and more",
            ),
            at_most("cost of hr.diagnose around a loop", float(np.median(costs)), 2, "%"),
        ],
        "data": {"trials": done, "cost_percent": summary(costs), "headspace": spdl},
        "quick": quick,
    }


if __name__ == "__main__":
    sys.setswitchinterval(0.005)
    main()
