"""A step of 50 ms, and the time it spends in next().

Claim     A training step of 50 ms sees < 1 % of its time in next().
Run       python bench/load_wait.py --corpus DIR --tokenizer tokenizer.json
Compares  headrace and a memory-map Dataset in a DataLoader (no worker, 1 worker), 32 and 512 rows x 2,048, one core
          for everything. A step either waits (as a host does for its accelerator; the core is free) or multiplies
          matrices on that core (as a CPU does; whatever loads data ahead takes its time from the step). headrace's
          next() gives tokens in the stored type; the DataLoader's gives int64, so what headrace takes to widen them
          (on a GPU, the GPU does it) stands beside it.
Ceiling   0 %.
Reports   Share of the wall time spent in next(), and in next() and widening together, median and spread of n
          interleaved rounds of 20 steps; the longest single next(); and for busy steps how much longer a
          round took than steps alone (work moved to a thread does not show in next()).
Cause     {cause}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from corpora import add_corpus_options, tokens_for_loading
from measure import at_most, interleave, number, options, pin, report, spread, summary, table

CAUSE = """Batches are made ahead by one thread while steps are long, whatever the store; next() hands one over. After
          50 ms of other work nothing of the loader is in the caches: 0.1 to 0.2 ms. The thread does not interrupt
          the step that woke it (SCHED_BATCH); on a busy core the step pays for its work, in "% slower". With 512
          rows that holds, once a process, 45 ms of compiling beside the steps."""
STEP_S = 0.050

CONTESTANTS = (
    "headrace, none",
    "headrace, zstd blocks",
    "memory map + DataLoader",
    "memory map + DataLoader, 1 worker",
)


def batches(contestant: str, folder: str, rows: int) -> Any:
    """An endless stream of int64 inputs and labels."""
    from pathlib import Path

    import load_worker

    load_worker.B = rows
    if contestant.startswith("headrace"):
        import headrace as hr

        codec, _, kind = contestant.removeprefix("headrace, ").partition(" ")
        store = hr.Store.open(load_worker.ours_store(Path(folder), codec))
        loader = hr.Loader(
            store,
            seq_len=load_worker.T,
            batch_size=rows,
            seed=7,
            rank=0,
            world_size=1,
            shuffle=kind or "global",
        )
        return loader
    loader = load_worker.memmap(Path(folder), 1 if "1 worker" in contestant else 0, 7)

    def endless() -> Any:
        while True:
            yield from loader.epoch()

    return endless()


def steps(contestant: str, folder: str, rows: int, busy: bool, count: int) -> dict[str, float]:
    """`count` steps of 50 ms; shares of the time in next() and with widening, the longest next(), slowdown."""
    stream = iter(batches(contestant, folder, rows))
    a = np.random.default_rng(7).standard_normal((384, 384), dtype=np.float32)
    out = np.empty_like(a)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.3:
        np.matmul(a, a, out=out)
        calls += 1
    per_step = max(1, round(calls / 0.3 * STEP_S))

    def step() -> None:
        if busy:
            for _ in range(per_step):
                np.matmul(a, a, out=out)
        else:
            time.sleep(STEP_S)

    for _ in range(4):
        widen(next(stream))
        step()
    start = time.perf_counter()
    for _ in range(count // 2):
        step()
    alone = (time.perf_counter() - start) / (count // 2) * count
    waits, widening, start = [], 0.0, time.perf_counter()
    for _ in range(count):
        before = time.perf_counter()
        batch = next(stream)
        between = time.perf_counter()
        widen(batch)
        widening += time.perf_counter() - between
        waits.append(between - before)
        step()
    total = time.perf_counter() - start
    return {
        "share": sum(waits) / total,
        "with_widening": (sum(waits) + widening) / total,
        "longest_s": max(waits),
        "slower": total / alone - 1,
    }


def widen(batch: Any) -> Any:
    """Inputs and labels; a DataLoader's batch has them."""
    return batch if isinstance(batch, tuple) else (batch.input_ids, batch.labels)


def main() -> None:
    if sys.argv[1:2] == ["--steps"]:
        contestant, folder, rows, count = sys.argv[2:]
        told = {
            kind: steps(contestant, folder, int(rows), kind == "busy", int(count))
            for kind in ("waits", "busy")
        }
        print(json.dumps(told))
        sys.stdout.flush()
        os._exit(0)  # a DataLoader's worker would be waited for
    parser = options(__doc__, repeats=3)
    add_corpus_options(parser)
    chosen = parser.parse_args()
    repeats, count = (1, 6) if chosen.quick else (chosen.repeats, 20)
    corpus = tokens_for_loading(
        chosen.corpus, chosen.tokenizer, num_tokens=4_000_000 if chosen.quick else 40_000_000
    )
    pin()
    told: dict[str, list[dict[str, float]]] = {}

    def share(contestant: str, rows: int) -> float:
        done = subprocess.run(
            [sys.executable, __file__, "--steps", contestant, str(corpus.folder), str(rows), str(count)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        answer = json.loads(done.stdout.splitlines()[-1])
        for kind, one in answer.items():
            told.setdefault(f"{contestant}, {rows} rows, {kind}", []).append(one)
        return 100 * float(answer["waits"]["share"])

    interleave(
        {
            f"{contestant}, {rows} rows": (lambda c=contestant, r=rows: share(c, r))  # type: ignore[misc]
            for rows in (32, 512)
            for contestant in CONTESTANTS
        },
        repeats,
    )
    rounds = {label: [100 * one["share"] for one in ones] for label, ones in told.items()}
    lines = [
        [
            label,
            number(float(np.median(values))),
            spread(values),
            number(100 * float(np.median([one["with_widening"] for one in told[label]]))),
            number(1e3 * max(one["longest_s"] for one in told[label])),
            number(100 * float(np.median([one["slower"] for one in told[label]]))) if "busy" in label else "",
        ]
        for label, values in rounds.items()
    ]
    goals = [
        at_most(f"in next(): {label}", float(np.median(values)), 1, "%")
        for label, values in rounds.items()
        if label.startswith("headrace")
    ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"{corpus.name}, steps of {1e3 * STEP_S:.0f} ms": table(
                ["contestant", "% in next()", "spread", "% with widening", "longest ms", "% slower"], lines
            )
        },
        goals=goals,
        data={"percent_in_next": {k: summary(v) for k, v in rounds.items()}, "summary": told},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
