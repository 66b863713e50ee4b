"""Tuning by LoRA on the CPU: ours beside the peft library with transformers.Trainer, on the same rows.

Claim     50 steps from the same low-rank matrices on the same rows: every loss within 1e-3 of peft's; >= 1.5 x the
          tokens/s; <= 0.8 x the peak memory.
Run       python bench/lora.py --corpus DIR --model HF_DIR [--dtype float32|bfloat16] [--steps 50]; needs peft
Compares  The same base directory (without --model: random weights of a Llama shape, 6 layers x 384), rows, LoRA
          configuration (rank 16, all linear layers), AdamW and rate, each contestant in a fresh process with all
          cores, taking turns. Trainer trains peft's model over the rows as they were read by headrace, in order.
Reports   Tokens/s of the median step, median and spread of n rounds; the largest difference of a loss; peak resident
          memory of the process, imports and loading included.
Cause     Products: two thirds of a step's CPU time in float32 (one thread). Frozen weights have no gradient for any
          contestant, so that the same products are left to all; ours saves passes over activations and logits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from corpora import add_corpus_options, files_of
from measure import (
    DATA,
    at_least,
    at_most,
    interleave,
    number,
    options,
    report,
    run_worker,
    spread,
    summary,
    table,
    versions,
)

B, T, RANK, SEED = 4, 256, 16, 7
SENTENCE = "The headrace brings water to the turbine, and the turbine turns the shaft.\n"


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Run a contestant in a fresh process."""
    return run_worker("lora_worker.py", job, limit_s=1200)


def random_base(out: Path, tokenizer: str, *, small: bool) -> Path:
    """A Hugging Face directory of a Llama shape with random weights: 30 M parameters with GPT-2's vocabulary."""
    from headrace.model import DecoderConfig, build_model, init_weights, to_hf
    from headrace.tokens import load_tokenizer

    encoder = load_tokenizer(tokenizer)
    width, layers = (64, 2) if small else (384, 6)
    config = DecoderConfig(
        model_type="llama",
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_attention_heads=width // 64 if width > 64 else 2,
        num_key_value_heads=width // 64 if width > 64 else 2,
        head_dim=64 if width > 64 else 32,
        tie_word_embeddings=True,
        vocab_size=encoder.vocab_size,
        max_position_embeddings=T,
    )
    model = build_model(config)
    init_weights(model, num_layers=layers, seed=SEED)
    return to_hf(model, encoder, out)


def prepare(folder: Path, job: dict[str, Any], files: list[Path]) -> None:
    """Make the store, the adapter that both begin with, and the rows in the order of a run."""
    import headrace as hr
    from headrace.model import export_adapter
    from headrace.training import LoraOptions

    if not files:
        (folder / "text.txt").write_text(SENTENCE * 20_000)
        files = [folder / "text.txt"]
    hr.ingest([str(path) for path in files[:1]], folder / "store", tokenizer=job["base"])
    hr.train(
        folder / "store",
        out=folder / "start",
        init_from=job["base"],
        steps=1,
        data=hr.DataOptions(seq_len=T, batch_size=B),
        optimizer=hr.OptimizerOptions(lr=0.0),
        run=hr.RunOptions(device="cpu", lora=LoraOptions(r=RANK, target_modules=("all-linear",))),
    )
    export_adapter(folder / "start", folder / "adapter")
    with (
        hr.Store.open(folder / "store") as store,
        hr.Loader(store, seq_len=T, batch_size=B, seed=SEED) as loader,
    ):
        rows = [batch.tokens for batch, _ in zip(loader, range(job["steps"]), strict=False)]
    np.save(folder / "rows.npy", np.stack([np.asarray(one) for one in rows]))


def main() -> None:
    parser = options(__doc__, repeats=3)
    add_corpus_options(parser)
    parser.add_argument("--model", type=Path, help="a Hugging Face directory (default: random weights)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    chosen = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA) as temporary:
        folder = Path(temporary)
        base = chosen.model or random_base(folder / "base", chosen.tokenizer or "byte", small=chosen.quick)
        job = {
            "base": str(base), "adapter": str(folder / "adapter"), "store": str(folder / "store"), "B": B, "T": T,
            "rows": str(folder / "rows.npy"), "rank": RANK, "seed": SEED, "dtype": chosen.dtype, "lr": 1e-3,
            "steps": 4 if chosen.quick else chosen.steps, "warm": 1 if chosen.quick else 3,
        }  # fmt: skip
        prepare(folder, job, files_of(chosen.corpus))
        answers: dict[str, list[dict[str, Any]]] = {"headrace": [], "peft, Trainer": []}

        def measured(label: str, way: str) -> float:
            answers[label].append(ask({**job, "way": way}))
            return float(answers[label][-1]["tokens_per_s"])

        rounds = interleave(
            {
                "headrace": lambda: measured("headrace", "headrace"),
                "peft, Trainer": lambda: measured("peft, Trainer", "peft_trainer"),
            },
            1 if chosen.quick else chosen.repeats,
        )
    ours, theirs = answers["headrace"], answers["peft, Trainer"]
    m = {label: float(np.median(values)) for label, values in rounds.items()}
    peak = {label: float(np.median([a["peak_bytes"] for a in found])) for label, found in answers.items()}
    difference = float(np.abs(np.subtract(ours[0]["losses"], theirs[0]["losses"])).max())
    goals = [
        at_most("largest difference of a loss", difference, 1e-3, "nats", f"{job['steps']} steps"),
        at_least("tokens/s against peft, Trainer", m["headrace"] / m["peft, Trainer"], 1.5, "x"),
        at_most("peak memory against peft, Trainer", peak["headrace"] / peak["peft, Trainer"], 0.8, "x"),
    ]
    lines = [
        [label, number(m[label]), spread(rounds[label]), f"{peak[label] / 2**20:,.0f}",
         f"{answers[label][0]['losses'][0]:.4f}", f"{answers[label][0]['losses'][-1]:.4f}"]
        for label in rounds
    ]  # fmt: skip
    name = chosen.model.resolve().name if chosen.model else "random weights, 6 layers x 384"
    report(
        "lora" + ("" if chosen.dtype == "float32" else f"_{chosen.dtype}"),
        doc=__doc__,
        tables={
            f"{name}, rank {RANK} on all linear layers, {B} rows x {T}, {chosen.dtype}": table(
                ["contestant", "tokens/s", "spread", "peak MiB", "first loss", "last loss"], lines
            )
        },
        goals=goals,
        data={
            "tokens_per_s": {label: summary(values) for label, values in rounds.items()},
            "peak_bytes": peak,
            "losses": {label: found[0]["losses"] for label, found in answers.items()},
            "versions": versions("torch", "transformers", "peft"),
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
