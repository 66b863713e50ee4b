"""The permutation: nanoseconds a row in bulk, and rows lost.

Claim     <= 50 ns a row in bulk, for any number of rows, and no row lost or doubled.
Run       python bench/order_permute.py
Compares  permute_many over chunks of 2^16 indices, for n at, one below and one
          above powers of two (where networks over powers of two walk most) and for a store of 10^12 tokens; grain's
          index_shuffle, if its environment is there, one call a row as its interface has it.
Ceiling   One pass of 64-bit multiply and shift over as many indices, in place: what a single round costs at
          least.
Reports   Nanoseconds a row, median and spread of n interleaved rounds, one core; rows lost, over every index
          of each n up to 2^20 + 1 (exhaustive).
Cause     {cause}
"""

from __future__ import annotations

import subprocess

import numpy as np

from headrace.native import use_target
from headrace.order import permute_many, round_keys
from measure import at_most, interleave, number, options, pin, report, spread, summary, table, timed
from rivals import interpreter, is_made

CAUSE = """In C, 64 indices at a time: eight rounds of two 64-bit products and a few shifts, eight indices to an
          instruction, and one division. In NumPy: eight rounds of 11 NumPy passes over 2^13 values."""

SIZES = {
    "2^16": 2**16,
    "2^16 + 1": 2**16 + 1,
    "2^18 + 1": 2**18 + 1,
    "2^20 - 1": 2**20 - 1,
    "19,531 (40 M tokens)": 19_531,
    "244,140,624 (10^12 tokens at 4,096)": (10**12 - 1) // 4096,
    "2^40 + 1": 2**40 + 1,
}
CHUNK = 2**16

GRAIN = """
import sys, time
from grain._src.python.experimental.index_shuffle.python import index_shuffle_module as m
n = int(sys.argv[1])
start, rows = time.perf_counter(), min(n, 300_000)
out = [m.index_shuffle(i, max_index=n - 1, seed=7, rounds=4) for i in range(rows)]
took = time.perf_counter() - start
print(took / rows * 1e9, len(set(out)) if rows == n else -1)
"""


def nanoseconds(n: int) -> float:
    """One row's share of permuting a chunk in the middle of [0, n)."""
    keys = round_keys(seed=7, source="bench", epoch=3)
    rows = min(n, CHUNK)
    indices = np.arange(rows, dtype=np.int64) + (n - rows) // 2
    return 1e9 * timed(lambda: permute_many(indices, n=n, keys=keys)) / rows


def in_numpy() -> float:
    """The same for 2^16 rows, without the extension in C."""
    with use_target("off"):
        return nanoseconds(CHUNK)


def one_round() -> float:
    """Multiply and shift, in place."""
    x = np.arange(CHUNK, dtype=np.uint64)

    def call() -> None:
        np.multiply(x, np.uint64(0x9E3779B97F4A7C15), out=x)
        np.right_shift(x, np.uint64(7), out=x)

    return 1e9 * timed(call) / CHUNK


def lost(n: int) -> int:
    """Rows of [0, n) that no index leads to."""
    seen = np.zeros(n, bool)
    seen[
        permute_many(np.arange(n, dtype=np.int64), n=n, keys=round_keys(seed=7, source="bench", epoch=3))
    ] = True
    return int(n - seen.sum())


def grain(n: int) -> tuple[float, int] | None:
    """Grain's nanoseconds a row and rows lost (-1: not counted), where its environment is there."""
    if not is_made("field"):
        return None
    run = subprocess.run(
        [str(interpreter("field")), "-c", GRAIN, str(n)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        return None
    took, distinct = run.stdout.split()
    return float(took), n - int(distinct) if int(distinct) >= 0 else -1


def main() -> None:
    chosen = options(__doc__).parse_args()
    pin()
    rounds = interleave(
        {"one round": one_round, "2^16, in NumPy": in_numpy}
        | {label: (lambda n=n: nanoseconds(n)) for label, n in SIZES.items()},  # type: ignore[misc]
        2 if chosen.quick else chosen.repeats,
    )
    exhaustive = [
        n + d for n in (2**k for k in range(1, 17 if chosen.quick else 21)) for d in (-1, 0, 1) if n + d > 0
    ]
    losses = {n: lost(n) for n in exhaustive}
    theirs = {label: grain(n) for label, n in SIZES.items()}
    rows = []
    for label, values in rounds.items():
        other = theirs.get(label)
        rows.append(
            [
                label,
                number(float(np.median(values))),
                spread(values),
                str(losses[SIZES[label]]) if SIZES.get(label) in losses else "",
                number(other[0]) if other else "",
                str(other[1]) if other and other[1] >= 0 else "",
            ]
        )
    worst = max((label for label in SIZES), key=lambda label: float(np.median(rounds[label])))
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            "Rows": table(
                ["rows n", "ns a row", "spread", "rows lost", "grain ns a row", "grain rows lost"], rows
            )
        },
        goals=[
            at_most(
                "permutation, in bulk", float(np.median(rounds[worst])), 50, "ns a row", f"worst: {worst}"
            ),
            at_most(
                "rows lost",
                sum(losses.values()),
                0,
                "",
                f"{len(losses)} sizes up to {max(losses):,}, every index",
            ),
        ],
        data={
            "ns_per_row": {label: summary(values) for label, values in rounds.items()},
            "rows_lost": losses,
            "grain": theirs,
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
