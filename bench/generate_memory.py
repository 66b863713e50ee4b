"""A million prompts against ten thousand: peak memory of the whole command, of resuming, and of reading.

Claim     Peak memory of a job of 10^6 short prompts equals that of 10^4 within 5 %; so does that of reading what it
          stored, sorted and not.
Run       python bench/generate_memory.py
Compares  `headrace generate` as a user starts it, in a process of its own: prompts from a .jsonl with ids, of one
          length (a step of another shape has buffers of its own), the native engine with a model of one small layer
          (so that a million prompts take minutes), the local sink, Parquet. Then the same command again, which finds
          every row stored; then a scan in a process of its own.
Ceiling   The peak of the small job: interpreter, torch, one batch and one part.
Reports   Peak resident memory (the kernel's mark of the process), wall time; of one run each.
Cause     {cause}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import at_most, number, options, report, say, table, versions

CAUSE = """Nothing is kept for each prompt: ids are compared through a temporary file, keys of stored rows are in SQLite
          behind a cache of 2 MB, the log and the rows of one part are dropped when it is committed, and a sorted scan
          opens a part when its first row is due."""
SMALL, LARGE = 10_000, 1_000_000
SCAN = """
import sys
from headrace.sink import scan_predictions
rows, last = 0, ""
for batch in scan_predictions(sys.argv[1], sort=sys.argv[2] == "sorted"):
    rows += batch.num_rows
print(rows)
"""
MODEL = """
import sys
from headrace.model import GPT, GPTConfig, to_hf
from headrace.tokens import load_tokenizer
shape = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=1, vocab_size=257, max_position_embeddings=32
)
to_hf(GPT(shape), load_tokenizer("byte"), sys.argv[1])
"""


def run(words: list[str]) -> dict[str, Any]:
    """A process -> its peak memory, wall seconds, and what it printed."""
    start = time.perf_counter()
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words[:4])}: exit {process.returncode}")
    return {
        "peak_bytes": used.ru_maxrss * 1024,
        "seconds": time.perf_counter() - start,
        "said": json.loads(said),
    }


def prepare(folder: Path, counts: tuple[int, int]) -> None:
    """The model and both files of prompts; in a process of its own, since a child's mark begins with its parent's."""
    subprocess.run([sys.executable, "-c", MODEL, str(folder / "model")], check=True)
    for count in counts:
        with (folder / f"{count}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(count):
                file.write(f'{{"id": "prompt-{i:08d}", "prompt": "Row {i:07d}:"}}\n')


def main() -> None:
    chosen = options(__doc__, repeats=1).parse_args()
    counts = (SMALL, 3 * SMALL) if chosen.quick else (SMALL, LARGE)
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, counts)
        for count in counts:
            job = [
                sys.executable, "-m", "headrace", "generate", "--model", str(folder / "model"), "--dtype", "float32",
                "--prompts", str(folder / f"{count}.jsonl"), "--out", str(folder / f"out-{count}"),
                "--max-new-tokens", "2", "--batch-size", "256", "--json",
            ]  # fmt: skip
            for label, words in {
                "job": job,
                "the same again": job,
                "scan": [sys.executable, "-c", SCAN, str(folder / f"out-{count}"), "unsorted"],
                "sorted scan": [sys.executable, "-c", SCAN, str(folder / f"out-{count}"), "sorted"],
            }.items():
                one = run(words)
                found.setdefault(label, []).append(one)
                say(
                    f"  {count:,} prompts, {label}: {one['peak_bytes'] >> 20} MiB, {number(one['seconds'])} s"
                )
                stored = one["said"]["num_predictions"] if isinstance(one["said"], dict) else one["said"]
                assert stored == count, f"{label}: {stored} rows of {count}"
    growth = {
        label: 100 * (large["peak_bytes"] / small["peak_bytes"] - 1)
        for label, (small, large) in found.items()
    }
    lines = [
        [
            label,
            *(f"{one['peak_bytes'] / 2**20:,.0f} MiB" for one in pair),
            f"{growth[label]:+.1f} %",
            *(f"{one['seconds']:,.1f} s" for one in pair),
        ]
        for label, pair in found.items()
    ]
    large = f"{counts[1]:,}"
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            "Peak memory and time": table(
                ["", f"{counts[0]:,}", large, "growth", f"{counts[0]:,}", large], lines
            )
        },
        goals=[
            at_most(
                f"peak memory of a {label}, {large} prompts against {counts[0]:,}", growth[label], 5, "% more"
            )
            for label in ("job", "scan", "sorted scan")
        ],
        data={
            "runs": {
                label: [{k: v for k, v in one.items() if k != "said"} for one in pair]
                for label, pair in found.items()
            },
            "stages": found["job"][1]["said"]["stages"],
            "versions": versions("torch", "pyarrow"),
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
