"""A training step on the CPU: ours beside nanoGPT's loop and transformers.Trainer; waits, saves, and resuming.

Claim     Tokens/s >= 1.0 x nanoGPT's training loop and >= 1.2 x transformers.Trainer; < 1 % of a step waits for
          data; a checkpoint stalls training <= 1/10 of a synchronous torch.save; a killed run goes on with the
          same loss to the last printed digit.
Run       git clone https://github.com/karpathy/nanoGPT .venv-rivals/nanoGPT; python bench/train.py --corpus DIR
          --tokenizer tokenizer.json [--compile] [--dtype float32|bfloat16] [--steps 10]
Compares  The same shape (GPT-2's vocabulary; see the title of the table), tokens, batch, dtype and optimizer
          (AdamW, fused where the contestant has it), each contestant in a fresh process with all cores, taking
          turns; compile is on or off for all. nanoGPT's model is imported from its clone and its train.py's step
          repeated; Trainer trains GPT2LMHeadModel over a memory-mapped dataset; "naive" trains our model from a
          dataset that tokenizes in __getitem__. torch.nn.DataParallel needs several GPUs: not measured.
Ceiling   Matrix products of the model's shapes alone, in the faster of torch's libraries, into memory that was touched
          before: forward and backward, no attention, no optimizer.
Reports   Tokens/s of the median step, median and spread of n rounds; share of the steps' time waiting for data;
          seconds that training waits for a save.
Cause     {cause}
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from corpora import add_corpus_options, files_of, tokens_for_loading
from load_worker import ours_store, raw_file
from measure import (
    CHECKOUT,
    DATA,
    Goal,
    at_least,
    at_most,
    interleave,
    number,
    options,
    report,
    run_worker,
    say,
    spread,
    summary,
    table,
    versions,
)

CAUSE = """Profiled: the head's products over 50,257 ids are most of a step, the same for all contestants. The rest is
          memory: rivals map and touch some 600,000 fresh pages a step (a fifth to a third of it), ours keeps what a
          step frees, and passes over its logits a block at a time, in cache, where theirs pass over all of them."""
COMPILED = """Profiled: compiled, rivals fuse the softmax over their logits, which ours passes over in cache without a
          compiler, but still map 200,000 to 280,000 fresh pages a step. Compiled blocks gain ours little: what
          they fuse is a small part of a step on a CPU."""
FLOAT32 = """Profiled: torch's float32 products are MKL's, which takes AVX2 code on AMD's AVX-512 CPUs (about 215 of 480
          GFLOP/s here); ours are oneDNN's there. On a CPU of Intel's the products would be alike, and what is left is
          the memory: see the result in bfloat16."""
SHAPE = {
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "vocab_size": 50257,
    "max_position_embeddings": 256,
}
B, T = 8, 256


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Run a contestant in a fresh process."""
    return run_worker("train_worker.py", job, limit_s=600, killed=job.get("kill_at") is not None)


def products_per_s(shape: dict[str, int], dtype: str) -> float:
    """Tokens/s that the model's matrix products alone allow, forward and backward (three times the forward)."""
    import torch

    from headrace.model.products import product
    from headrace.training.step.memory import freed_memory_kept

    width, rows, kind = shape["hidden_size"], B * T, getattr(torch, dtype)
    seconds = 0.0
    with freed_memory_kept(torch.device("cpu")):
        for out, count in ((12 * width, shape["num_hidden_layers"]), (shape["vocab_size"], 1)):
            x, w = torch.randn(rows, width, dtype=kind), torch.randn(width, out, dtype=kind)
            product(x, w)
            took = []
            for _ in range(5):
                begun = time.perf_counter()
                product(x, w)
                took.append(time.perf_counter() - begun)
            seconds += 3 * count * sorted(took)[2]
    return rows / seconds


def same_after_a_kill(job: dict[str, Any]) -> bool:
    """Whether a run that is killed after its fifth step, and started again, has the losses of one that is not."""
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        whole = ask({**job, "way": "resume", "out": f"{folder}/whole"})["losses"]
        ask({**job, "way": "resume", "out": f"{folder}/killed", "kill_at": 5})
        again = ask({**job, "way": "resume", "out": f"{folder}/killed"})["losses"]
    say(f"losses {whole}; after a kill {again}")
    return bool(whole == again)


def saving(job: dict[str, Any], repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """What a checkpoint costs beside torch.save, and whether a killed run goes on: goals, and their figures."""
    saved = ask({**job, "way": "save"})
    stalls = [ask({**job, "way": "headrace", "checkpoint_every": 3})["stall_s"] for _ in range(repeats)]
    same = same_after_a_kill(job)
    goals = [
        at_most(
            "stall of a checkpoint, against torch.save", float(np.median(stalls)) / saved["save_s"], 0.1, "x",
            f"{number(1e3 * float(np.median(stalls)))} ms, torch.save {number(1e3 * saved['save_s'])} ms, "
            f"{saved['bytes'] / 1e6:.0f} MB",
        ),
        Goal(
            claim="losses after a kill", wanted="the same to the last digit", got=float(same), unit="",
            met=same, note="steps 5 and 6 of 6",
        ),
    ]  # fmt: skip
    return goals, {"stall_s": stalls, "save": saved}


def main() -> None:
    parser = options(__doc__, repeats=3)
    add_corpus_options(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile for all contestants")
    parser.add_argument("--speed-only", action="store_true", help="leave out saves and the kill")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each contestant and round")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: what `auto` takes here")
    parser.add_argument(
        "--nanogpt", type=Path, default=CHECKOUT / ".venv-rivals" / "nanoGPT", help="a clone of nanoGPT"
    )
    chosen = parser.parse_args()
    import torch

    from headrace.training.step.device import resolve_dtype

    dtype = chosen.dtype or resolve_dtype("auto", torch.device("cpu"))
    corpus = tokens_for_loading(
        chosen.corpus, chosen.tokenizer, num_tokens=4_000_000 if chosen.quick else 40_000_000
    )
    shape = (
        {**SHAPE, "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2}
        if chosen.quick
        else SHAPE
    )
    job = {
        "shape": shape, "B": B, "T": T, "warm": 2 if chosen.quick else 3, "steps": 4 if chosen.quick else chosen.steps,
        "dtype": dtype, "device": "cpu", "compile": chosen.compile, "nanogpt": str(chosen.nanogpt),
        "store": ours_store(corpus.folder, "none"), "tokens": str(raw_file(corpus.folder)),
        "files": [str(path) for path in files_of(chosen.corpus)[:2]], "tokenizer": chosen.tokenizer,
    }  # fmt: skip
    ways = {"headrace": "headrace", "nanoGPT": "nanogpt", "transformers.Trainer": "trainer"}
    if not (chosen.nanogpt / "model.py").exists():
        say(f"{chosen.nanogpt}: no clone of nanoGPT there; it is left out")
        del ways["nanoGPT"]
    if job["files"] and chosen.tokenizer:
        ways["naive loader, our model"] = "naive"
    answers: dict[str, list[dict[str, Any]]] = {label: [] for label in ways}

    def measured(label: str) -> float:
        answers[label].append(ask({**job, "way": ways[label]}))
        return float(answers[label][-1]["tokens_per_s"])

    rounds = interleave(
        {label: (lambda name=label: measured(name)) for label in ways},  # type: ignore[misc]
        1 if chosen.quick else chosen.repeats,
    )
    safety, kept = ([], {}) if chosen.speed_only else saving(job, 1 if chosen.quick else chosen.repeats)
    ceiling = products_per_s(shape, dtype)
    m = {label: float(np.median(values)) for label, values in rounds.items()}
    waits = {
        label: float(np.median([a["wait_share"] for a in found])) if "wait_share" in found[0] else None
        for label, found in answers.items()
    }
    goals = [
        at_least(f"tokens/s against {label}", m["headrace"] / m[label], bar, "x")
        for label, bar in (("nanoGPT", 1.0), ("transformers.Trainer", 1.2))
        if label in m
    ]
    goals += [
        at_most(
            "waiting for data", 100 * (waits["headrace"] or 0.0), 1, "% of a step",
            f"naive loader: {number(100 * naive)} %" if (naive := waits.get("naive loader, our model")) else "",
        ),
        *safety,
    ]  # fmt: skip
    lines = [
        [label, number(m[label]), spread(rounds[label]), f"{number(100 * m[label] / ceiling)} %",
         "" if (share := waits[label]) is None else f"{number(100 * share)} %"]
        for label in sorted(m, key=lambda one: -m[one])
    ]  # fmt: skip
    lines.append(["matrix products alone", number(ceiling), "", "100 %", ""])
    title = (
        f"{shape['num_hidden_layers']} layers x {shape['hidden_size']}, {shape['vocab_size']:,} ids, "
        f"{B} rows x {T}, {dtype}, compile {'on' if chosen.compile else 'off'}"
    )
    report(
        "train" + ("_compiled" if chosen.compile else "") + ("" if chosen.dtype is None else f"_{dtype}"),
        doc=__doc__.replace(
            "{cause}", COMPILED if chosen.compile else FLOAT32 if dtype == "float32" else CAUSE
        ),
        tables={title: table(["contestant", "tokens/s", "spread", "of the ceiling", "waiting"], lines)},
        goals=goals,
        data={
            "tokens_per_s": {k: summary(v) for k, v in rounds.items()},
            **kept,
            "versions": versions("torch", "transformers"),
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
