"""A prompt whose beginning was computed before: again, after a kill -9 and a restart, and in a batch job.

Claim     A 2,048-token shared prefix costs <= 5 % of its prefill when it comes again, <= 10 % after kill -9 and a
          restart; a batch of 256 prompts with one 1,000-token head takes a third of the time. Equal answers.
Run       python bench/prefix_cache.py --model HF_DIR (SmolLM2-135M), on one core
Compares  The same engine with and without its prefix cache, in processes of their own. The time of a prompt is that
          from its arrival to its first token: 2,048 tokens that are shared and 16 of its own. After the restart the
          blocks are read from a directory, whose files are in the page cache. The batch generates 8 tokens a prompt.
Ceiling   The own tokens alone: what remains to be computed.
Reports   Processor seconds of the one thread that computes and reads, which are its wall time on a core of its own:
          neighbours change wall times tenfold. Median of the repeats (the restart: each in a new process), shares of
          the prefill without a cache, and whether the tokens are equal.
Cause     {cause}
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import DATA, at_least, at_most, number, options, pin, report, say, summary, table, versions

CAUSE = "Not measured on a quiet machine yet."
PREFIX, HEAD, OWN, NEW = 2048, 1000, 16, 8


def work(job: dict[str, Any]) -> None:
    """Generate in this process, print a line for each round, then wait to be killed."""
    from headrace.generation import PrefixCacheOptions, Request, SamplingOptions, load_engine

    loaded = load_engine(
        job["model"],
        dtype=job["dtype"],
        device="cpu",
        batch_size=job["batch_size"],
        prefix_cache=PrefixCacheOptions(directory=job["directory"], memory_bytes=job["memory_bytes"]),
    )
    engine: Any = loaded.engine
    for prompts in job["rounds"]:
        requests = [
            Request(
                prompt_id=str(i), token_ids=tuple(ids), sampling=SamplingOptions(max_new_tokens=job["new"])
            )
            for i, ids in enumerate(prompts)
        ]
        before, started, used = engine.cached_tokens, time.perf_counter(), time.thread_time()
        rows = {row.prompt_id: row.token_ids for row in engine.run(requests)}
        took, used = time.perf_counter() - started, time.thread_time() - used
        tokens = [rows[str(i)] for i in range(len(prompts))]
        line = {"wall_s": took, "s": used, "cached": engine.cached_tokens - before, "tokens": tokens}
        print(json.dumps(line), flush=True)
    time.sleep(600)


def run(**job: Any) -> list[dict[str, Any]]:
    """One process: the results of its rounds; it is killed (SIGKILL) behind the last one."""
    job = {"directory": None, "memory_bytes": 1 << 30, "batch_size": 32, "new": 1} | job
    child = subprocess.Popen(
        [sys.executable, __file__, "work"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(job))
    child.stdin.close()
    found = []
    for _ in job["rounds"]:
        line = child.stdout.readline()
        if not line:
            raise SystemExit("prefix_cache: a process ended early")
        found.append(json.loads(line))
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    return found


def shared_prefix(common: dict[str, Any], *, length: int, repeats: int) -> dict[str, Any]:
    """Seconds to the first token: without a cache, the first time, again, after a restart, and of the own tokens."""
    rng = random.Random(0)
    vocab = common.pop("vocab")
    prefix = [rng.randrange(vocab) for _ in range(length)]
    warm = [[rng.randrange(vocab) for _ in range(OWN)]]
    rounds = [[prefix + [rng.randrange(vocab) for _ in range(OWN)]] for _ in range(repeats + 1)]
    directory = DATA / "prefix_cache"
    shutil.rmtree(directory, ignore_errors=True)
    plain = run(**common, memory_bytes=0, rounds=[warm, *rounds])
    kept = run(**common, directory=str(directory), rounds=[warm, *rounds])
    restarted = [
        run(**common, directory=str(directory), rounds=[warm, rounds[i]])[1] for i in range(1, repeats + 1)
    ]
    own = run(**common, memory_bytes=0, rounds=[warm, *([one[0][length:]] for one in rounds)])
    equal = all(
        [one["tokens"] for one in found] == [one["tokens"] for one in expected]
        for found, expected in ((kept[1:], plain[1:]), (restarted, plain[2:]))
    )
    shutil.rmtree(directory, ignore_errors=True)
    return {
        "plain": [one["s"] for one in plain[1:]],
        "first": [kept[1]["s"]],
        "again": [one["s"] for one in kept[2:]],
        "restarted": [one["s"] for one in restarted],
        "own": [one["s"] for one in own[2:]],
        "cached": [kept[2]["cached"], restarted[0]["cached"]],
        "equal": equal,
    }


def batch(common: dict[str, Any], *, vocab: int, length: int, count: int) -> dict[str, Any]:
    """Seconds of a batch job whose prompts share a head, with and without the cache."""
    rng = random.Random(1)
    head = [rng.randrange(vocab) for _ in range(length)]
    prompts = [head + [rng.randrange(vocab) for _ in range(OWN)] for _ in range(count)]
    warm = [[rng.randrange(vocab) for _ in range(OWN)]]
    found = {
        name: run(**common, new=NEW, memory_bytes=memory, rounds=[warm, prompts])[1]
        for name, memory in (("with", 1 << 30), ("without", 0))
    }
    same = sum(a == b for a, b in zip(found["with"]["tokens"], found["without"]["tokens"], strict=True))
    return {"s": {name: one["s"] for name, one in found.items()}, "equal": same, "count": count}


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--model", default=os.environ.get("HEADRACE_BENCH_MODEL"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--count", type=int, default=256, help="prompts of the batch job")
    chosen = parser.parse_args()
    if chosen.model is None:
        say("prefix_cache: not measured: no model; give --model, or set HEADRACE_BENCH_MODEL")
        return
    pin()
    config = json.loads((Path(chosen.model) / "config.json").read_text(encoding="utf-8"))
    vocab = int(config["vocab_size"])
    common = {"model": str(chosen.model), "dtype": chosen.dtype}
    length, count = (256, 4) if chosen.quick else (PREFIX, chosen.count)
    one = shared_prefix(
        {**common, "vocab": vocab}, length=length, repeats=1 if chosen.quick else chosen.repeats
    )
    many = batch(common, vocab=vocab, length=128 if chosen.quick else HEAD, count=count)
    medians = {name: statistics.median(one[name]) for name in ("plain", "first", "again", "restarted", "own")}
    faster = many["s"]["without"] / many["s"]["with"]
    plain = medians["plain"]
    lines = [
        [name, number(1000 * medians[key]), f"{medians[key] / plain:.1%}"]
        for name, key in (
            ("without a cache", "plain"),
            ("with a cache, the first time", "first"),
            ("again", "again"),
            ("after kill -9 and a restart", "restarted"),
            ("the own tokens alone", "own"),
        )
    ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"A shared prefix of {length:,} tokens": table(["", "ms to the first token", "share"], lines),
            f"{count} prompts with one head": table(
                ["", "s"], [[name, number(value)] for name, value in many["s"].items()]
            ),
        },
        goals=[
            at_most("the prefix again, of its prefill", 100 * medians["again"] / plain, 5, "%"),
            at_most("after a restart, of its prefill", 100 * medians["restarted"] / plain, 10, "%"),
            at_least("equal first tokens", float(one["equal"]), 1, "", "all of them"),
            at_least(f"{count} prompts with one head, against no cache", faster, 3, "x"),
            at_least(
                "prompts of the batch with equal tokens", 100 * many["equal"] / count, 95, "%",
                "others are ties that the rounding of a batch decides",
            ),
        ],
        data={
            "seconds": {name: summary(one[name]) for name in medians},
            "cached_tokens": one["cached"],
            "batch": many,
            "versions": versions("torch", "transformers"),
        },
        quick=chosen.quick,
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work(json.load(sys.stdin))
    else:
        main()
