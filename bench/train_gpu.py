"""MFU of training GPT-3 sizes in bfloat16 on one GPU.

Claim     gpt3-125m >= 40 % and gpt3-1.3b >= 50 % MFU at T = 2,048 on one H100; < 0.5 % of a step waits for data.
Run       python bench/train_gpu.py [--corpus DIR --tokenizer tokenizer.json]; on a machine without CUDA it says
          "not measured", and --on-cpu runs a tiny shape to see that everything works
Compares  hr.train with compile, each size in a fresh process; torch.nn.DataParallel (one process, a thread and a
          copy of the model a GPU, at every step) is the documented worst rival where there are several GPUs.
Ceiling   The device's dense bfloat16 peak, from the table in headrace/training/step/mfu.py; a device that is not
          in it has no MFU, and that is said.
Reports   Tokens/s of the median step, MFU (model FLOPs: no recomputation counted), share waiting for data.
Cause     not measured
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from corpora import add_corpus_options, tokens_for_loading
from load_worker import ours_store
from measure import at_least, at_most, number, options, report, say, table, versions
from train import ask

SIZES = {"gpt3-125m": (16, 40.0), "gpt3-1.3b": (4, 50.0)}
"""Rows of 2,048 in one pass, and the wanted MFU in percent."""


def main() -> None:
    parser = options(__doc__)
    add_corpus_options(parser)
    parser.add_argument("--on-cpu", action="store_true", help="a tiny shape on the CPU: does it run?")
    chosen = parser.parse_args()
    import torch

    from headrace.model import gpt_config

    if not torch.cuda.is_available() and not chosen.on_cpu:
        say("train_gpu: not measured: no CUDA device here")
        sys.exit(0)
    corpus = tokens_for_loading(
        chosen.corpus, chosen.tokenizer, num_tokens=4_000_000 if chosen.on_cpu or chosen.quick else 40_000_000
    )
    sizes = {"tiny": (2, 0.0)} if chosen.on_cpu else SIZES
    lines, goals, answers = [], [], {}
    for name, (rows, wanted) in sizes.items():
        shape = gpt_config(name, vocab_size=50257)
        told = answers[name] = ask(
            {
                "way": "headrace", "B": rows, "T": shape.max_position_embeddings, "warm": 5,
                "steps": 5 if chosen.on_cpu else 40,
                "shape": asdict(shape),
                "dtype": "auto" if chosen.on_cpu else "bfloat16", "compile": not chosen.on_cpu,
                "device": "cpu" if chosen.on_cpu else "cuda", "store": ours_store(corpus.folder, "none"),
            }
        )  # fmt: skip
        mfu = told["mfu"]
        shown = "unknown hardware" if mfu is None else f"{number(100 * mfu)} %"
        lines.append([name, number(told["tokens_per_s"]), shown, f"{number(100 * told['wait_share'])} %"])
        if mfu is not None:
            goals.append(at_least(f"{name}: MFU", 100 * mfu, wanted, "%"))
        goals.append(at_most(f"{name}: waiting for data", 100 * told["wait_share"], 0.5, "% of a step"))
    device = "CPU" if chosen.on_cpu else torch.cuda.get_device_name()
    report(
        __file__,
        doc=__doc__,
        tables={f"{device}, T = context": table(["size", "tokens/s", "MFU", "waiting"], lines)},
        goals=goals,
        data={"device": device, "answers": answers, "versions": versions("torch")},
        quick=chosen.quick or chosen.on_cpu,
    )


if __name__ == "__main__":
    main()
