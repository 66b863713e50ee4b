"""One stream at default settings: bytes of weights a second in decode, beside a plain read of as many.

Claim     Decoding one row reads weights at >= 60 % of what a plain read reaches, in an engine as it is by default,
          where 32 rows may run: what a lone client of a server gets.
Run       python bench/generate_alone.py --model HF_DIR
Compares  The model and a gpt3-125m shape with random weights, both types, with and without the extension, each in a
          fresh process with all cores. Greedy, from a prompt of 16 tokens.
Ceiling   A plain sum over as many bytes as the weights have, before and after decoding.
Reports   Median over 128 tokens of the time of a step; bytes of weights a second.
Cause     The extension reads the weights in the order of their use, from the blocks in which oneDNN keeps them for many
          rows; what is left is 180 waits of threads for each other, attention, and choosing the token. Without a
          it torch decodes, with some twenty operations a layer, and reads small weights at half the speed of
          memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from generate import ask
from measure import at_least, number, options, report, say, table, versions

ROWS = [
    (size, dtype, compiled)
    for compiled in (True, False)
    for size in (None, "gpt3-125m")
    for dtype in ("bfloat16", "float32")
]


def main() -> None:
    parser = options(__doc__, repeats=1)
    parser.add_argument(
        "--model",
        type=Path,
        default=os.environ.get("HEADRACE_BENCH_MODEL"),
        help="a Hugging Face directory (default: $HEADRACE_BENCH_MODEL)",
    )
    chosen = parser.parse_args()
    if chosen.model is None:
        say("generate_alone: not measured: no model; give --model, or set HEADRACE_BENCH_MODEL")
        sys.exit(0)
    job = {
        "way": "bandwidth", "model": str(chosen.model), "new": 8 if chosen.quick else 128, "stop": [],
        "prompts": [list(range(100, 116))],
    }  # fmt: skip
    found = {}
    for size, dtype, compiled in ROWS:
        one = ask({**job, "dtype": dtype, "compiled": compiled, **({"size": size} if size else {})})
        found[f"{size or chosen.model.name}, {dtype}, {one['decoder']}"] = one
        say(f"  {size or chosen.model.name}, {dtype}: {one['step_ms']:.2f} ms, {one['decoder']}")
    lines = [
        [label, number(one["tokens_per_s"]), number(one["step_ms"]), number(one["decode"] / 1e9),
         number(one["read"] / 1e9), f"{100 * one['decode'] / one['read']:.0f} %"]
        for label, one in found.items()
    ]  # fmt: skip
    report(
        __file__,
        doc=__doc__,
        tables={
            "One row": table(
                ["model, type, decoder", "tokens/s", "ms a token", "GB/s", "plain read, GB/s", "share"], lines
            )
        },
        goals=[
            at_least(
                f"weights read in decode of one row: {label}", 100 * one["decode"] / one["read"], 60,
                "% of a plain read", f"{number(one['tokens_per_s'])} tokens/s, {one['bytes'] / 1e6:.0f} MB",
            )
            for label, one in list(found.items())[: len(ROWS) // 2]
        ],
        data={"one_row": found, "versions": versions("torch", "transformers")},
        quick=chosen.quick,
    )  # fmt: skip


if __name__ == "__main__":
    main()
