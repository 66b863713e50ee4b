"""Does `--layout auto` pick the layout that trains fastest?

Claim     The layout that auto picks is within 5 % of the best of all that headrace train can run on these processes.
Run       python bench/plan_layout.py [--processes 2 4] [--layers 4] [--width 256]
Compares  auto's choice with every layout of the job that fits, each measured for some steps in each of n rounds, every
          other round in the reverse order, by the code that auto measures with. Beside it the layout that the plan
          alone ranks first, and the median layout: what a guess costs.
Ceiling   0 %: the best of all, which is by chance the lowest of many medians on a noisy machine.
Reports   Median step seconds over the rounds of auto's choice over the best one's, in percent.
Cause     {cause}
"""

# ruff: noqa: SLF001  # all layouts are measured by the functions that auto measures with
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import BENCH, at_most, number, options, report, say, table

CAUSE = """A gloo all-reduce waits for the slowest process, which a busy machine makes a random one: a layout's
          median of five steps differs by 10 % and more between rounds there."""


def measure_all(job: dict[str, Any]) -> None:
    """In each process of torchrun: choose as train does, then measure every layout; rank 0 writes the file."""
    import headrace as hr
    from headrace.model import GPTConfig
    from headrace.training import layout_choice, prepare

    choose = layout_choice.choose_layout

    def compared(recipe: Any, requested: Any, **given: Any) -> Any:
        group, device = given["group"], given["device"]
        choice = choose(recipe, requested, **given)
        hardware = layout_choice._hardware(group, device)
        layouts, rows = layout_choice._candidates(recipe, requested, hardware, group.size, None)
        every = [layout_choice._options(recipe, requested, layouts, row, None) for row in rows]
        seconds: list[list[float]] = [[] for _ in every]
        for turn in range(job["rounds"]):
            for i in list(range(len(every)))[:: 1 if turn % 2 == 0 else -1]:
                parallel, steps = every[i]
                tried = layout_choice.dataclasses.replace(recipe, gradient_accumulation_steps=steps)
                seconds[i].append(
                    layout_choice._step_seconds(
                        tried, parallel, group=group, device=device, clock=layout_choice.time.perf_counter
                    )
                )
        if group.is_rank0:
            mine = (layout_choice._values(choice.parallel), choice.gradient_accumulation_steps)
            result = {
                "layouts": [
                    f"{layout_choice._text(parallel)}, accumulation {steps}" for parallel, steps in every
                ],
                "seconds": seconds,
                "chosen": [(layout_choice._values(parallel), steps) for parallel, steps in every].index(mine),
            }
            Path(job["file"]).write_text(json.dumps(result))
        return choice

    prepare.choose_layout = compared
    hr.train(
        job["store"],
        out=job["out"],
        model=GPTConfig(**job["shape"]),
        steps=1,
        data=hr.DataOptions(seq_len=job["T"], batch_size=job["B"]),
        parallel=hr.ParallelOptions(layout="auto"),
        run=hr.RunOptions(device="cpu", dtype="float32"),
    )


def run(processes: int, job: dict[str, Any]) -> dict[str, Any]:
    """All layouts on so many processes."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__]
    done = subprocess.run(
        [sys.executable, *words, "--job", json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCH,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{processes} processes: exit {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(Path(job["file"]).read_text())
    return found


def main() -> None:
    parser = options(__doc__, repeats=2)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--job", help="in a process of torchrun")
    chosen = parser.parse_args()
    if chosen.job:
        measure_all(json.loads(chosen.job))
        return
    import headrace as hr

    lines, goals, data = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        corpus.write_text('{"text": "the headrace brings water to the turbine"}\n' * 4000)
        store = Path(folder) / "store"
        hr.ingest([corpus], store, tokenizer="byte")
        for processes in [2] if chosen.quick else chosen.processes:
            shape = {
                "num_hidden_layers": chosen.layers,
                "hidden_size": chosen.width,
                "num_attention_heads": 4,
                "vocab_size": 257,
                "max_position_embeddings": 128,
            }
            job = {
                "store": str(store), "out": f"{folder}/run{processes}", "file": f"{folder}/{processes}.json",
                "shape": shape, "T": 128, "B": 8, "rounds": 1 if chosen.quick else chosen.repeats,
            }  # fmt: skip
            found = run(processes, job)
            medians = [statistics.median(times) for times in found["seconds"]]
            best = min(range(len(medians)), key=medians.__getitem__)
            auto = found["chosen"]
            regret = 100 * (medians[auto] / medians[best] - 1)
            alone = 100 * (medians[0] / medians[best] - 1)  # candidates come in the plan's order
            say(f"  {processes} processes, {len(medians)} layouts: {found['layouts'][auto]}: {regret:.1f} %")
            lines.append(
                [
                    str(processes),
                    str(len(medians)),
                    found["layouts"][auto],
                    number(1e3 * medians[auto]),
                    found["layouts"][best],
                    number(1e3 * medians[best]),
                    number(regret),
                    number(alone),
                    number(100 * (statistics.median(medians) / medians[best] - 1)),
                ]
            )
            data[str(processes)] = found
            goals.append(at_most(f"auto above the best, {processes} processes", regret, 5, "%"))
    head = [
        "processes",
        "layouts",
        "auto",
        "ms",
        "best",
        "ms",
        "auto above best, %",
        "the plan alone, %",
        "median layout, %",
    ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={"step of the chosen layout": table(head, lines)},
        goals=goals,
        data=data,
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
