"""Rows of tokens from a warm page cache, on one core: ours beside every loader of the field.

Claim     In the type it stores, headrace delivers >= 6 times the tokens/s of the fastest rival and >= 50 % of
          a memcpy of the same bytes; as int64 tensors of inputs and labels, >= 2 times the fastest rival that
          delivers those.
Run       python bench/rivals.py setup; python bench/load_tokens.py --corpus DIR --tokenizer tokenizer.json
Compares  The same 40 M GPT-2 tokens, 32 rows x 2,048 tokens, shuffled, each contestant in a process of its own
          environment, all on one core (sched_setaffinity), alive through all rounds and taking turns. After the
          timing each delivers one epoch, hashed without regard to order: the rows are the same. Megatron shuffles
          documents before it cuts rows, so its ids are counted; nanoGPT samples with replacement, so it has no
          epoch.
Ceiling   memcpy of batches of the same size from the same mapped file, one after the other; and the same
          bytes as they are asked for, rows of 4 KiB in shuffled order, by one NumPy index and nothing else.
Reports   Million tokens/s, median and spread of n interleaved rounds of 0.7 s; seconds to open (imports
          included) and first batch; resident memory.
Cause     {cause}
"""

from __future__ import annotations

from typing import Any

import numpy as np

from corpora import Tokens, add_corpus_options, tokens_for_loading
from load_worker import B, T, raw_file
from measure import (
    at_least,
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
from rivals import OURS, Worker, WorkerError, opened

CAUSE = """Of 10.3 us for a batch, 6.3 go by in the C that copies 32 shuffled rows (a memcpy of as many bytes in order
          takes 4.5 to 5.5: two rows ahead are asked for line by line, further ahead or with other hints it is no
          faster), 0.8 around that call, 0.6 in permuting and looking up rows a chunk ahead, 2.6 in making the batch
          object and counting. int64: writing 1 MB of ids takes 23 us more."""

# label -> (environment, contestant, workers, what a batch is)
CONTESTANTS = {
    "headrace": (OURS, "ours", 0, "uint16"),
    "headrace, int64 tensors": (OURS, "ours-int64", 0, "int64 x 2"),
    "memory map + DataLoader, uint16": (OURS, "memmap-stored", 0, "uint16"),
    "memory map + DataLoader": (OURS, "memmap", 0, "int64 x 2"),
    "memory map + DataLoader, 1 worker": (OURS, "memmap", 1, "int64 x 2"),
    "nanoGPT get_batch": (OURS, "nanogpt", 0, "int64 x 2"),
    "LitData TokensLoader": ("litdata", "litdata", 0, "uint16"),
    "LitData TokensLoader, 1 worker": ("litdata", "litdata", 1, "uint16"),
    "HF datasets, numpy": ("field", "hf-numpy", 0, "uint16"),
    "HF datasets, numpy, 1 worker": ("field", "hf-numpy", 1, "uint16"),
    "HF datasets, torch": ("field", "hf-torch", 0, "int64"),
    "grain MapDataset, ArrayRecord": ("field", "grain-map", 0, "uint16"),
    "grain DataLoader, ArrayRecord": ("field", "grain-loader", 0, "uint16"),
    "grain DataLoader, 1 worker": ("field", "grain-loader", 1, "uint16"),
    "Megatron-core GPTDataset": ("field", "megatron", 0, "int64 x 2"),
    "Megatron-core GPTDataset, 1 worker": ("field", "megatron", 1, "int64 x 2"),
    "MosaicML Streaming": ("streaming", "streaming", 0, "uint16"),
    "MosaicML Streaming, 1 worker": ("streaming", "streaming", 1, "uint16"),
}
CEILING = "memcpy"
ROWS = "the same rows by one NumPy index, alone"


def memcpy_rate(tokens: np.ndarray) -> float:
    """Tokens/s of copying whole batches from the map into one buffer."""
    batch = B * T
    buffer = np.empty(batch, np.uint16)
    starts = range(0, len(tokens) - batch, batch)

    def once() -> None:
        for start in starts:
            np.copyto(buffer, tokens[start : start + batch])

    return len(starts) * batch / timed(once, at_least_s=0.5)


def row_rate(tokens: np.ndarray) -> float:
    """Tokens/s of one NumPy index that copies 32 shuffled rows at a time, and of nothing else."""
    rows = np.ndarray((len(tokens) - T,), f"V{2 * (T + 1)}", tokens, strides=(2,))
    order = np.random.default_rng(7).permutation((len(tokens) - 1) // T) * T
    batches = order[: len(order) // B * B].reshape(-1, B)

    def once() -> None:
        for batch in batches:
            rows[batch]

    return batches.size * T / timed(once, at_least_s=0.5)


def rate(worker: Worker, seconds: float) -> float:
    """Tokens/s of one round; NaN from a contestant that failed."""
    try:
        told = worker.ask(do="pass", seconds=seconds)
    except WorkerError as error:
        say(f"LEFT OUT: {error}")
        return float("nan")
    return float(told["tokens"]) / float(told["seconds"])


def drop_failed(
    rounds: dict[str, list[float]], workers: dict[str, Worker], missing: dict[str, str]
) -> dict[str, list[float]]:
    """The rounds of those that finished them all; the others are closed, and named among the missing."""
    for label in [label for label, values in rounds.items() if not np.isfinite(values).all()]:
        missing[label] = "failed while it was timed"
        workers.pop(label).close()
        del rounds[label]
    return rounds


def same_tokens(told: dict[str, dict[str, Any]], corpus: Tokens) -> dict[str, str]:
    """What the hash of an epoch says, in words, for each contestant."""
    rows = (corpus.num_tokens - 1) // T
    whole = np.array(corpus.tokens[: rows * T]).reshape(rows, T)
    expected = sum(_digest(row) for row in whole) % 2**64
    every_id = np.bincount(np.array(corpus.tokens), minlength=2**16)
    words = {}
    for label, one in told.items():
        if one["hash"] == f"{expected:016x}" and one["rows"] == rows:
            words[label] = "same rows"
        else:
            # Rows cut elsewhere: the same ids as often, but for the tail that fills no row.
            left = every_id - np.array(one["counts"])
            words[label] = "same ids" if (left >= 0).all() and left.sum() <= T else "DIFFERENT"
    return words


def _digest(row: np.ndarray) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")


def main() -> None:
    parser = options(__doc__)
    add_corpus_options(parser)
    parser.add_argument(
        "--only", nargs="*", default=[], help="contestants whose label contains one of these words"
    )
    chosen = parser.parse_args()
    seconds = 0.2 if chosen.quick else 0.7
    corpus = tokens_for_loading(
        chosen.corpus, chosen.tokenizer, num_tokens=4_000_000 if chosen.quick else 40_000_000
    )
    core = pin()
    tokens = np.memmap(raw_file(corpus.folder), np.uint16, "r")
    workers, answers, missing = opened(
        {
            label: (environment, (name, str(corpus.folder), "--workers", str(count)))
            for label, (environment, name, count, _) in CONTESTANTS.items()
            if not chosen.only or any(word in label for word in chosen.only)
        }
    )
    rounds = interleave(
        {CEILING: lambda: memcpy_rate(tokens), ROWS: lambda: row_rate(tokens)}
        | {label: (lambda w=worker: rate(w, seconds)) for label, worker in workers.items()},  # type: ignore[misc]
        chosen.repeats if not chosen.quick else 2,
    )
    rounds = drop_failed(rounds, workers, missing)
    epochs = {
        label: worker.ask(do="hash")
        for label, worker in workers.items()
        if CONTESTANTS[label][1] != "nanogpt" and CONTESTANTS[label][2] == 0
    }
    for worker in workers.values():
        worker.close()
    proof = same_tokens(epochs, corpus)
    medians = {label: float(np.median(values)) for label, values in rounds.items()}

    def fastest(kind: str) -> tuple[str, float]:
        rivals = {
            label: medians[label]
            for label in workers
            if not label.startswith("headrace") and CONTESTANTS[label][3].startswith(kind)
        }
        return max(rivals.items(), key=lambda item: item[1])

    rows = []
    for label in sorted(rounds, key=lambda name: -medians[name]):
        a = answers.get(label)
        rows.append(
            [
                label,
                CONTESTANTS[label][3] if a else "",
                number(medians[label] / 1e6),
                spread([value / 1e6 for value in rounds[label]]),
                number(100 * medians[label] / medians[CEILING]) + " %",
                number(a["open_s"]) if a else "",
                number(a["resident_bytes"] / 1e6) if a else "",
                proof.get(label, ""),
            ]
        )
    rows += [[label, "", "left out", why, "", "", "", ""] for label, why in missing.items()]
    goals = []
    rivals = [label for label in workers if not label.startswith("headrace")]
    if "headrace" in medians and rivals:
        any_rival = max(rivals, key=medians.__getitem__)
        libraries = [label for label in rivals if label != "memory map + DataLoader, uint16"]
        library = max(libraries, key=medians.__getitem__)
        goals += [
            at_least(
                "stored type, against the fastest rival",
                medians["headrace"] / medians[any_rival],
                6,
                "x",
                f"{any_rival}; {number(medians['headrace'] / medians[library])} x {library}",
            ),
            at_least(
                "stored type, against memcpy",
                100 * medians["headrace"] / medians[CEILING],
                50,
                "%",
                f"{number(100 * medians[ROWS] / medians[CEILING])} % is what shuffled rows of 4 KiB allow",
            ),
        ]
    if "headrace, int64 tensors" in medians and any(CONTESTANTS[r][3].startswith("int64") for r in rivals):
        name, best = fastest("int64")
        goals.append(
            at_least("int64 inputs and labels", medians["headrace, int64 tensors"] / best, 2, "x", name)
        )
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"{corpus.name}, {corpus.num_tokens:,} tokens, core {core}": table(
                [
                    "contestant",
                    "batch",
                    "M tokens/s",
                    "spread",
                    "of memcpy",
                    "open s",
                    "resident MB",
                    "proof",
                ],
                rows,
            )
        },
        goals=goals,
        data={
            "corpus": corpus.name,
            "num_tokens": corpus.num_tokens,
            "tokens_per_s": {label: summary(values) for label, values in rounds.items()},
            "opened": answers,
            "same_tokens": proof,
            "versions": {label: one["version"] for label, one in answers.items()}
            | versions("numpy", "torch"),
        },
        quick=chosen.quick,
    )
    if "DIFFERENT" in proof.values():
        raise SystemExit("not all contestants delivered the same tokens; the figures above do not count")


if __name__ == "__main__":
    main()
