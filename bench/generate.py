"""Prompts to tokens on the CPU: our engine beside transformers' generate and its continuous batching.

Claim     256 prompts of mixed length, up to 128 new tokens with a stop string, greedy, same dtype: >= 1.5 x the
          faster of transformers' generate (its best batch size) and its continuous batching. Storing costs <= 2 % of a
          job. One row alone: generate_alone.py.
Run       python bench/generate.py --model HF_DIR --corpus DIR [--dtype float32|bfloat16]
Compares  The same token ids, model directory and dtype, each contestant in a fresh process with all cores, taking
          turns; loading and a warm-up do not count. generate gets prompts of like length in one batch. Only tokens up
          to a row's end count. Continuous batching runs through our adapter, which watches its stop strings.
Reports   Tokens/s, median and spread of n rounds; share of a job's work in its sink.
Cause     {cause}
"""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from corpora import add_corpus_options, files_of
from measure import (
    BENCH,
    at_least,
    at_most,
    interleave,
    number,
    options,
    report,
    say,
    spread,
    summary,
    table,
    versions,
)

CAUSE = """A step takes all rows side by side without padding, rows that end leave at once, and weights are laid out
          once for the number of rows; generate pads, and runs until the last row of a batch has ended. Where rows
          end differs between contestants (bfloat16 rounds differently in another order), so tokens a second are
          compared, not seconds."""


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Run a contestant in a fresh process."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(job, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, str(BENCH / "generate_worker.py"), file.name],
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )
    if done.returncode:
        raise RuntimeError(f"{job['way']}: exit {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def prompts_of(model: Path, corpus: list[str], count: int) -> list[list[int]]:
    """Token ids of the beginnings of documents, 8 to 256 long; sentences of our own where no corpus is given."""
    from headrace.tokens import load_tokenizer

    tokenizer, chance = load_tokenizer(model), random.Random(7)
    texts = []
    for path in files_of(corpus):
        with gzip.open(path, "rb") as lines:
            texts += [json.loads(line)["text"] for _, line in zip(range(2000), lines, strict=False)]
    texts = texts or [
        f"The {i}th turn of the wheel brings water to the mill, and then " * 40 for i in range(count)
    ]
    found = []
    for text in chance.sample(texts, len(texts)):
        ids = [int(i) for i in tokenizer.encode(text[:4000])][: chance.randint(8, 256)]
        if len(ids) >= 8:
            found.append(ids)
        if len(found) == count:
            break
    return found


def main() -> None:
    parser = options(__doc__, repeats=2)
    add_corpus_options(parser)
    parser.add_argument(
        "--model",
        type=Path,
        default=os.environ.get("HEADRACE_BENCH_MODEL"),
        help="a Hugging Face directory (default: $HEADRACE_BENCH_MODEL)",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument(
        "--batch", type=int, nargs="*", default=[64, 128], help="batch sizes that generate tries"
    )
    chosen = parser.parse_args()
    if chosen.model is None:
        say("generate: not measured: no model; give --model, or set HEADRACE_BENCH_MODEL")
        sys.exit(0)
    count = 8 if chosen.quick else chosen.prompts
    job = {
        "model": str(chosen.model), "dtype": chosen.dtype, "new": 8 if chosen.quick else 128, "stop": ["\n\n"],
        "prompts": prompts_of(chosen.model, chosen.corpus, count), "batch": 64,
    }  # fmt: skip
    ways = {"headrace": {"way": "native"}, "transformers continuous batching": {"way": "continuous"}}
    ways |= {f"transformers generate, {b} rows": {"way": "generate", "batch": b} for b in chosen.batch}  # type: ignore[dict-item]
    answers: dict[str, list[dict[str, Any]]] = {label: [] for label in ways}

    def measured(label: str) -> float:
        answers[label].append(ask({**job, **ways[label]}))
        return float(answers[label][-1]["tokens"] / answers[label][-1]["seconds"])

    rounds = interleave(
        {label: (lambda name=label: measured(name)) for label in ways},  # type: ignore[misc]
        1 if chosen.quick else chosen.repeats,
    )
    kept = ask({**job, "way": "stored"})
    m = {label: float(np.median(values)) for label, values in rounds.items()}
    fastest = max((label for label in m if label != "headrace"), key=m.__getitem__)
    lines = [
        [label, number(m[label]), spread(rounds[label]), f"{answers[label][0]['tokens']:,}"]
        for label in sorted(m, key=lambda one: -m[one])
    ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"{chosen.model.name}, {chosen.dtype}, {len(job['prompts'])} prompts": table(
                ["contestant", "tokens/s", "spread", "tokens"], lines
            ),
        },
        goals=[
            at_least("batch generation against transformers", m["headrace"] / m[fastest], 1.5, "x", fastest),
            at_most("cost of storing", 100 * kept["sink_s"] / kept["work_s"], 2, "% of the work", "busy seconds"),
        ],
        data={
            "tokens_per_s": {k: summary(v) for k, v in rounds.items()},
            "stored": kept,
            "versions": versions("torch", "transformers"),
        },
        quick=chosen.quick,
    )  # fmt: skip


if __name__ == "__main__":
    main()
