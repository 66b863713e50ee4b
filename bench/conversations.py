"""Raw conversations to rows that train: how fast they are tokenized with their masks, and how full packed rows are.

Claim     >= 20 times the conversations a second of the field's pipelines, from a raw .jsonl to ids and masks on
          disk, on one core; packed into rows of 2,048 tokens no conversation that fits is cut, < 1 % of the
          tokens are cropped and <= 2 % of the places padded.
Run       python bench/rivals.py setup field; python bench/conversations.py --corpus DIR --tokenizer DIR
          (DIR of the tokenizer: a Hugging Face directory). --trl names a Python that has TRL; without it TRL is left
          out. Measured: TRL 1.16, transformers 5.23, datasets 5.2; the tokenizer of Qwen3.
Compares  The same .jsonl (texts of the corpus as turns, 1 to 4 exchanges, a system turn in a third), the same
          ChatML template with generation markers, one process. HF: datasets.map over apply_chat_template with
          return_assistant_tokens_mask; TRL: the preparation of SFTTrainer with assistant_only_loss. Ids and
          masks of all are hashed conversation by conversation and must be equal. All get the same number of
          conversations; ours also ten times as many, since a job has a start that does not grow.
Ceiling   The engine alone on the text that the template has written.
Reports   Conversations a second of processor time in the job (the machine may be shared), and a second of a whole
          process from start to exit. Each repeated in turn; median and spread. Cropped: tokens beyond a row that
          truncation loses; ours are in further rows, counted apart.
Cause     {cause}
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from corpora import files_of
from measure import (
    DATA,
    at_least,
    at_most,
    number,
    options,
    pin,
    report,
    say,
    spread,
    summary,
    table,
    versions,
)
from rivals import OURS, interpreter, is_made, quiet_environment

CAUSE = """With Qwen3's tokenizer a job takes 1.9 s of processor time before the first conversation (imports, the
          engine, the reference and their comparison), and then 0.08 ms for each, of 840 tokens: the engine 20 %,
          which tokens are learned 25, JSON 10, the text around the contents 20, writing (zstd, fsync) 20."""
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
)
SEQ_LEN = 2048
WORKER = Path(__file__).with_name("conversations_worker.py")


def conversations(corpus: str, count: int, path: Path) -> None:
    """Write conversations whose turns are pieces of the corpus' texts."""
    rng = random.Random(0)
    texts: list[str] = []
    for file in files_of([corpus]):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for _, line in zip(range(2000), lines, strict=False)]

    def turn(mean: float) -> str:
        text, length = rng.choice(texts), int(rng.lognormvariate(np.log(mean), 0.9))
        start = rng.randrange(max(1, len(text) - length))
        return text[start : start + length].strip() or "yes"

    with path.open("w", encoding="utf-8") as out:
        for i in range(count):
            messages = [{"role": "system", "content": turn(120)}] if rng.random() < 0.33 else []
            for _ in range(rng.randrange(1, 5)):
                messages.append({"role": "user", "content": turn(220)})
                messages.append({"role": "assistant", "content": turn(700)})
            out.write(json.dumps({"id": i, "messages": messages}) + "\n")


def run(python: Path, what: str, source: Path, folder: Path, tokenizer: str) -> dict[str, Any]:
    """One contestant in a process of its own: seconds of the process and of the job, and hashes of its output."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    environment = {
        **os.environ,
        **quiet_environment(),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    if what != "ours":
        del environment["PYTHONPATH"]
    start = time.perf_counter()
    done = subprocess.run(
        [str(python), str(WORKER), what, str(source), str(folder / "out"), tokenizer, str(template)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-2000:]}")
    return {"wall_s": wall_s, **json.loads(done.stdout.splitlines()[-1])}


def packing(store_path: Path) -> dict[str, float]:
    """How full the rows of the packed store are, and what truncation would lose."""
    import headrace as hr

    with hr.Store.open(store_path) as store:
        lengths = np.diff(store.document_ends(0, store.num_tokens), prepend=0)
        loader = hr.Loader(
            store,
            seq_len=SEQ_LEN,
            batch_size=64,
            epochs=1,
            packing="best_fit",
            output=hr.BatchOptions(framework="numpy", document_ids=True),
        )
        places = padded = labels = 0
        for batch in loader:
            assert batch.document_ids is not None
            places += batch.document_ids.size
            padded += int((batch.document_ids == -1).sum())
            labels += int((batch.labels != -100).sum())
        loader.close()
        learned = int(store.learned([0], store.num_tokens).sum())
    return {
        "conversations": len(lengths),
        "cut": int((lengths > SEQ_LEN + 1).sum()),
        "padded": padded / places,
        "cropped": 1 - labels / learned,
        "truncation": float(np.maximum(lengths - SEQ_LEN, 0).sum() / lengths.sum()),
    }


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--corpus", default=os.environ.get("HEADRACE_BENCH_DOCS"), required=False)
    parser.add_argument("--tokenizer", default=os.environ.get("HEADRACE_BENCH_CHAT_TOKENIZER"))
    parser.add_argument("--trl", default=os.environ.get("HEADRACE_BENCH_TRL"), help="a Python that has TRL")
    parser.add_argument("--count", type=int, default=20_000, help="conversations")
    chosen = parser.parse_args()
    if not chosen.corpus or not chosen.tokenizer:
        parser.error("--corpus and --tokenizer are needed")
    pin()
    folder = DATA / "conversations"
    folder.mkdir(parents=True, exist_ok=True)
    count = 500 if chosen.quick else chosen.count
    sources = {"one": folder / "one.jsonl", "ten": folder / "ten.jsonl"}
    conversations(chosen.corpus, count, sources["one"])
    conversations(chosen.corpus, 10 * count, sources["ten"])
    contestants = {"ours": (interpreter(OURS), "one"), "ours, ten times as many": (interpreter(OURS), "ten")}
    if is_made("field") or chosen.trl:
        contestants["HF datasets"] = (interpreter("field") if is_made("field") else Path(chosen.trl), "one")
    if chosen.trl:
        contestants["TRL"] = (Path(chosen.trl), "one")
    kinds = {"HF datasets": "hf", "TRL": "trl"}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number_of in range(1 if chosen.quick else chosen.repeats):
        for name, (python, source) in contestants.items():
            got = run(
                python,
                kinds.get(name, "ours"),
                sources[source],
                folder / name.split(",")[0],
                chosen.tokenizer,
            )
            rounds[name].append(got)
            say(f"round {number_of}, {name}: {got['rows'] / got['cpu_s']:,.0f} conversations a CPU second")
    run(interpreter(OURS), "ours", sources["one"], folder / "ours", chosen.tokenizer)
    hashes = {name: values[0]["hash"] for name, values in rounds.items() if "," not in name}
    assert len(set(hashes.values())) == 1, f"the ids or masks differ: {hashes}"
    packed = packing(folder / "ours" / "out")
    job = {name: [one["rows"] / one["cpu_s"] for one in values] for name, values in rounds.items()}
    wall = {name: [one["rows"] / one["wall_s"] for one in values] for name, values in rounds.items()}
    rivals = {name: float(np.median(job[name])) for name in job if name in kinds}
    goals = [
        at_least(
            f"conversations a CPU second, {what}, against {name}",
            float(np.median(job[what])) / rate,
            20,
            "x",
            f"{np.median(job[what]):,.0f} and {rate:,.0f}",
        )
        for name, rate in rivals.items()
        for what in ("ours", "ours, ten times as many")
    ]
    goals += [
        at_most(
            "learned tokens cropped at T=2,048", 100 * packed["cropped"], 1, "%", "in other rows, not lost"
        ),
        at_most("places padded at T=2,048", 100 * packed["padded"], 2, "%"),
    ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            "Tokenizing": table(
                ["contestant", "conversations a CPU second", "spread", "a second of the whole process"],
                [
                    [
                        name,
                        number(float(np.median(job[name]))),
                        spread(job[name]),
                        number(float(np.median(wall[name]))),
                    ]
                    for name in job
                ],
            ),
            "Packing": table(
                ["conversations", "longer than a row", "tokens that truncation loses", "places padded"],
                [
                    [
                        f"{packed['conversations']:,}",
                        f"{packed['cut']:,}",
                        f"{packed['truncation']:.2%}",
                        f"{packed['padded']:.2%}",
                    ]
                ],
            ),
        },
        goals=goals,
        data={
            "conversations_per_cpu_s": {name: summary(values) for name, values in job.items()},
            "packing": packed,
            "versions": versions("transformers", "datasets", "tokenizers", "gigatoken", "jinja2"),
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
