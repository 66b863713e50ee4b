"""Rows from compressed stores, and what checksums cost.

Claim     Rows of a zstd store, block-shuffled, come at >= 2 times the speed of LitData's uncompressed chunks;
          a true global shuffle from a zstd store at >= 10 M tokens/s; checksums make a pass <= 15 % slower.
Run       python bench/rivals.py setup litdata; python bench/load_codecs.py --corpus DIR --tokenizer
          tokenizer.json
Compares  The same 40 M GPT-2 tokens, 32 rows x 2,048, one core, warm page cache, processes alive and taking turns.
          By default batches are decoded ahead while steps are long, on one core, and these are none; threads=0
          decodes when asked, as LitData without workers does; threads=1 always ahead. Checksums, with and without in
          pairs, by CPU time (what other processes do then matters less): fresh processes, one epoch each (every
          block is checked for the first time), and many short rounds of the steady state (what is mapped and was
          checked stays checked; what is decoded again is checked again). Compressed stores get a cache of two fifths
          of their decoded tokens and a window of 16 MiB, or they would be decoded once and then served from memory.
Ceiling   Decompressing the zstd blocks alone, one after the other into one buffer, with the same library.
Reports   Million tokens/s, median and spread of n interleaved rounds of 1 s; first epochs of n fresh
          processes.
Cause     {cause}
"""

from __future__ import annotations

import numpy as np

from corpora import add_corpus_options, tokens_for_loading
from load_tokens import drop_failed, rate, same_tokens
from load_worker import raw_file
from measure import (
    at_least,
    at_most,
    interleave,
    number,
    options,
    pin,
    report,
    say,
    spread,
    summary,
    table,
    timed,
    versions,
)
from rivals import OURS, Worker, opened

CAUSE = """zstd, block-shuffled, without threads: 112 us a batch, which is 0.9 blocks: 76 are their decompression (the
          same with three libraries), 7 their checksums read from memory that no cache holds, 10 the rows' copy out
          of the pool, the rest order, index and the pool's bookkeeping in Python.
          Checks: XXH3 reads a mapped store's 80 MB once more from memory, 2.7 ms alone at 30 GB/s, 13 % of a first
          epoch of 20 ms; finding and marking the blocks of its first 400 rows in Python takes as long again. Later
          epochs of a mapped store check nothing."""
CEILING = "zstd decompression alone"

CONTESTANTS = {
    "none, global shuffle": (OURS, "ours"),
    "none, block shuffle": (OURS, "ours-blocks"),
    "lz4, block shuffle": (OURS, "ours-lz4-blocks"),
    "zstd, block shuffle": (OURS, "ours-zstd-blocks"),
    "zstd, block shuffle, threads=0": (OURS, "ours-zstd-blocks-inline"),
    "zstd, block shuffle, threads=1": (OURS, "ours-zstd-blocks-ahead"),
    "zstd, global shuffle": (OURS, "ours-zstd-global"),
    "none, global shuffle, unchecked": (OURS, "ours-unverified"),
    "zstd, block shuffle, unchecked": (OURS, "ours-zstd-blocks-unverified"),
    "LitData, uncompressed": ("litdata", "litdata"),
}
PAIRS = {
    "none": ("none, global shuffle", "none, global shuffle, unchecked"),
    "zstd": ("zstd, block shuffle", "zstd, block shuffle, unchecked"),
}


def decode_rate(tokens: np.ndarray) -> float:
    """Tokens/s of decompressing zstd-3 frames of 64 Ki tokens, nothing else."""
    import zstandard

    block = 65_536
    packer, opener = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    frames = [
        packer.compress(tokens[i : i + block].tobytes()) for i in range(0, min(len(tokens), 8_000_000), block)
    ]

    def once() -> None:
        for frame in frames:
            opener.decompress(frame)

    return len(frames) * block / timed(once, at_least_s=0.5)


def first_epoch(contestant: str, folder: str) -> float:
    """Tokens a CPU second in a fresh process' first epoch, in which every block is checked for the first time."""
    worker = Worker(OURS, "load_worker.py", contestant, folder)
    told = worker.ask(do="first")
    worker.close()
    return float(told["tokens"]) / float(told["cpu_s"])


def steady_cpu_rate(worker: Worker) -> float:
    """Tokens a CPU second of 0.2 s of batches."""
    told = worker.ask(do="pass", seconds=0.2)
    return float(told["tokens"]) / float(told["cpu_s"])


def more_time(checked: list[float], unchecked: list[float]) -> list[float]:
    """Per cent more CPU time with checks, pair by pair."""
    return [100 * (b / a - 1) for a, b in zip(checked, unchecked, strict=True)]


def main() -> None:
    parser = options(__doc__)
    add_corpus_options(parser)
    chosen = parser.parse_args()
    repeats, seconds = (2, 0.2) if chosen.quick else (chosen.repeats, 1.0)
    corpus = tokens_for_loading(
        chosen.corpus, chosen.tokenizer, num_tokens=4_000_000 if chosen.quick else 40_000_000
    )
    pin()
    folder = str(corpus.folder)
    tokens = np.memmap(raw_file(corpus.folder), np.uint16, "r")
    workers, _, missing = opened({label: (env, (name, folder)) for label, (env, name) in CONTESTANTS.items()})
    steady = interleave(
        {CEILING: lambda: decode_rate(tokens)}
        | {label: (lambda w=worker: rate(w, seconds)) for label, worker in workers.items()},  # type: ignore[misc]
        repeats,
    )
    steady = drop_failed(steady, workers, missing)
    proof = same_tokens({label: worker.ask(do="hash") for label, worker in workers.items()}, corpus)
    pairs = 4 if chosen.quick else 25
    say(f"checksums: {pairs} pairs of short rounds, and {pairs // 2 + 1} pairs of first epochs")
    settled = interleave(
        {label: (lambda w=workers[label]: steady_cpu_rate(w)) for pair in PAIRS.values() for label in pair},  # type: ignore[misc]
        pairs,
    )
    for worker in workers.values():
        worker.close()
    fresh = interleave(
        {
            label: (lambda name=CONTESTANTS[label][1]: first_epoch(name, folder))  # type: ignore[misc]
            for pair in PAIRS.values()
            for label in pair
        },
        pairs // 2 + 1,
    )
    stores = {
        codec: sum(p.stat().st_size for p in (corpus.folder / f"ours-{codec}" / "data").iterdir())
        / corpus.num_tokens
        for codec in ("none", "lz4", "zstd")
    }
    m = {label: float(np.median(values)) for label, values in steady.items()}
    f = {label: float(np.median(values)) for label, values in fresh.items()}
    rows = [
        [
            label,
            number(m[label] / 1e6),
            spread([v / 1e6 for v in values]),
            number(f[label] / 1e6) if label in f else "",
            spread([v / 1e6 for v in fresh[label]]) if label in f else "",
            proof.get(label, ""),
        ]
        for label, values in steady.items()
    ]
    rows += [[label, "left out", why, "", "", ""] for label, why in missing.items()]
    inline = "zstd, block shuffle, threads=0"
    goals = [at_least("zstd, true global shuffle", m["zstd, global shuffle"] / 1e6, 10, "M tokens/s")]
    if "LitData, uncompressed" in m:
        goals.insert(
            0,
            at_least(
                "zstd, block-shuffled, against LitData uncompressed",
                m[inline] / m["LitData, uncompressed"],
                2,
                "x",
                f"without threads, as LitData; {number(m['zstd, block shuffle'] / m['LitData, uncompressed'])} x by "
                f"default; {number(100 * m[inline] / m[CEILING])} % of decompression alone",
            ),
        )
    costs = {}
    for codec, (checked, unchecked) in PAIRS.items():
        for when, figures in (("first epoch", fresh), ("steady", settled)):
            cost = more_time(figures[checked], figures[unchecked])
            costs[f"{codec} store, {when}"] = cost
            low, high = np.percentile(cost, [25, 75])
            goals.append(
                at_most(
                    f"checksums, {codec} store, {when}",
                    float(np.median(cost)),
                    15,
                    "% more time",
                    f"middle half of {len(cost)} pairs: {number(low)} to {number(high)}",
                )
            )
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"{corpus.name}, {corpus.num_tokens:,} tokens": table(
                ["store", "M tokens/s", "spread", "first epoch, M tokens/CPU s", "spread", "proof"], rows
            ),
            "Stored bytes a token": table(["codec", "bytes"], [[k, number(v)] for k, v in stores.items()]),
        },
        goals=goals,
        data={
            "checksum_percent": {k: summary(v) for k, v in costs.items()},
            "tokens_per_s": {k: summary(v) for k, v in steady.items()},
            "first_epoch_tokens_per_cpu_s": {k: summary(v) for k, v in fresh.items()},
            "bytes_per_token": stores,
            "same_tokens": proof,
            "versions": versions("zstandard", "lz4", "numpy"),
        },
        quick=chosen.quick,
    )
    if "DIFFERENT" in proof.values():
        raise SystemExit("not all contestants delivered the same tokens; the figures above do not count")


if __name__ == "__main__":
    main()
