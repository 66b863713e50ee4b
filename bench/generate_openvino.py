"""64 rows and one stream on the CPU, beside OpenVINO GenAI's continuous batching, alone and with busy neighbours.

Claim     64 rows of 16-token prompts, greedy, 16-bit weights: >= 1.2 x OpenVINO's tokens/s; one stream >= 1.3 x. One
          stream beside 1, 2 and 4 processes that never wait: >= 0.7 of the fair share of what it makes alone.
Run       python bench/rivals.py setup openvino
          optimum-cli export openvino -m HF_DIR --task text-generation-with-past --weight-format fp16 OV_DIR
          python bench/generate_openvino.py --model HF_DIR --openvino OV_DIR
          (optimum-cli is in .venv-rivals/openvino/bin)
Compares  The same model and prompts, bfloat16 arithmetic, all cores; each contestant in a process of its own, stopped
          outside its turns; rounds take turns. A warm-up does not count.
Reports   Tokens/s and CPU seconds for 1,000 tokens, median and spread of n rounds. On a machine that others use, CPU
          seconds are the fairer figure.
Cause     A step reads each weight once. Between the products there are four calls a layer in C instead of some twenty
          of torch, and fewer threads run where the cores are taken.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import at_least, number, options, report, say, spread, summary, table, versions
from rivals import OURS, Worker, is_made

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = "generate_openvino_worker.py"


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that never wait."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def main() -> None:
    parser = options(__doc__, repeats=3)
    model = os.environ.get("HEADRACE_BENCH_MODEL")
    parser.add_argument("--model", type=Path, default=model, help="a Hugging Face directory")
    parser.add_argument("--openvino", type=Path, help="the same model, exported for OpenVINO")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    if chosen.model is None:
        say("generate_openvino: not measured: no model; give --model, or set HEADRACE_BENCH_MODEL")
        sys.exit(0)
    contestants = {"headrace": Worker(OURS, SCRIPT, "ours", str(chosen.model), str(chosen.threads))}
    if chosen.openvino is not None and is_made("openvino"):
        contestants["OpenVINO GenAI"] = Worker(
            "openvino", SCRIPT, "openvino", str(chosen.openvino), str(chosen.threads)
        )
    else:
        say("generate_openvino: OpenVINO left out: give --openvino, and run rivals.py setup openvino")
    new = 8 if chosen.quick else 64
    answers: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for one in contestants.values():
        one.ask(rows=2, new=4, limit_s=600)
    for rows, busy in ((64, 0), (1, 0), (1, 1), (1, 2), (1, 4)):
        for _ in range(chosen.repeats):
            for name, one in contestants.items():
                with neighbours(busy):
                    answer = one.ask(rows=rows, new=new if rows > 1 else 2 * new, limit_s=600)
                answers.setdefault((name, rows, busy), []).append(answer)
                say(
                    f"  {name}, {rows} rows, {busy} neighbours: {answer['tokens'] / answer['wall_s']:.0f} tokens/s"
                )
    speed = {key: [a["tokens"] / a["wall_s"] for a in found] for key, found in answers.items()}
    cost = {key: [1e3 * a["cpu_s"] / a["tokens"] for a in found] for key, found in answers.items()}
    middle = {key: statistics.median(values) for key, values in speed.items()}
    goals = []
    if "OpenVINO GenAI" in contestants:
        for rows, bar in ((64, 1.2), (1, 1.3)):
            ratio = middle["headrace", rows, 0] / middle["OpenVINO GenAI", rows, 0]
            cpu = statistics.median(cost["OpenVINO GenAI", rows, 0]) / statistics.median(
                cost["headrace", rows, 0]
            )
            goals.append(
                at_least(
                    f"{rows} rows against OpenVINO GenAI", ratio, bar, "x", f"by CPU seconds {number(cpu)} x"
                )
            )
    for busy in (1, 2, 4):
        # Two threads and `busy` others on the cores: what the scheduler would give to a process that never waits.
        fair = min(1.0, chosen.threads / (chosen.threads + busy))
        share = middle["headrace", 1, busy] / middle["headrace", 1, 0] / fair
        goals.append(at_least(f"one stream beside {busy} busy processes", share, 0.7, "of the fair share"))
    report(
        __file__,
        doc=__doc__,
        tables={
            "Tokens a second": table(
                ["contestant", "rows", "neighbours", "tokens/s", "CPU s for 1,000 tokens"],
                [
                    [
                        name,
                        str(rows),
                        str(busy),
                        spread(speed[name, rows, busy]),
                        spread(cost[name, rows, busy]),
                    ]
                    for name, rows, busy in answers
                ],
            )
        },
        goals=goals,
        data={
            "tokens_per_s": {" / ".join(map(str, key)): summary(values) for key, values in speed.items()},
            "versions": versions("torch", "transformers"),
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
