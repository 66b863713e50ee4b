"""A small instruct model and pairs of texts -> the model tuned on them, its scores beside simple ones, and its answers.

    python examples/finetune_pairs.py --task translate --model SmolLM2-135M-Instruct --out translate \
        --train debian/translate/train.jsonl --test debian/translate/test.jsonl
    python examples/finetune_pairs.py --task answer --model SmolLM2-135M-Instruct --lora-r 16 --lr 1e-3 --out answer \
        --train debian/answer/train.jsonl --test debian/answer/test.jsonl

Records, in JSON lines: {"source", "target"}, or {"context", "question", "answers"} as SQuAD has them; an `id` is kept.
debian_pairs.py makes some of them. All weights learn, or with --lora-r low-rank matrices beside them; the loss is that
of the answers alone. Kill it and run it again: it goes on where it was. The answers are in OUT/predictions, once.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import headrace as hr
from headrace.training import LoraOptions

RESAMPLES = 1_000
TASKS = {
    "translate": "Translate into German.",
    "summarise": "Summarise in a few words.",
    "answer": "Answer with words of the text.",
}


@dataclass(frozen=True)
class Item:
    """What is asked, and which answers are right."""

    id: str
    source: str
    answers: list[str]


def read(path: Path) -> list[Item]:
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        if "question" in record:
            source = f"{record['context']}\n\n{record['question']}"
            answers = record["answers"]["text"] or [""]
        else:
            source, answers = record["source"], [record["target"]]
        items.append(Item(str(record.get("id", number)), source, answers))
    return items


def prompt_of(item: Item, instruction: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": instruction}, {"role": "user", "content": item.source}]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )
    return path


def train(options: argparse.Namespace, items: list[Item], instruction: str) -> None:
    """Pairs -> conversations -> a store -> a run; the same call goes on after a kill."""
    records = [
        {
            "prompt": prompt_of(item, instruction),
            "completion": [{"role": "assistant", "content": item.answers[0]}],
        }
        for item in items
    ]
    written = write(options.out / "train.jsonl", records)
    hr.ingest(written, options.out / "store", tokenizer=options.model)
    hr.train(
        options.out / "store",
        out=options.out / "run",
        init_from=options.model,
        steps=options.steps,
        data=hr.DataOptions(
            seq_len=options.seq_len,
            batch_size=options.batch_size,
            packing="best_fit",
            separate_documents=True,
        ),
        optimizer=hr.OptimizerOptions(
            lr=options.lr, warmup_steps=max(1, options.steps // 10), weight_decay=0.0
        ),
        run=hr.RunOptions(
            dtype=options.dtype,
            lora=LoraOptions(r=options.lora_r, target_modules=("all-linear",) if options.lora_r else ()),
        ),
    )


def predict(options: argparse.Namespace, model: str | Path, name: str, prompts: Path) -> dict[str, str]:
    """The likeliest answer to each prompt, by its id."""
    engine = hr.EngineOptions(batch_size=32)
    out = options.out / name
    hr.generate(model, prompts, out, max_new_tokens=options.max_new_tokens, temperature=0.0, engine=engine)
    table = hr.read_predictions(out)
    return dict(zip(table["prompt_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def plain(text: str) -> list[str]:
    """Words as SQuAD compares them: without case, punctuation and articles."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact(predicted: str, answers: list[str]) -> float:
    return float(any(plain(predicted) == plain(answer) for answer in answers))


def overlap(predicted: str, answers: list[str]) -> float:
    """F1 of the words, of the best of the answers."""
    best = 0.0
    for answer in answers:
        words, wanted = plain(predicted), plain(answer)
        shared = sum((collections.Counter(words) & collections.Counter(wanted)).values())
        best = max(best, 2 * shared / (len(words) + len(wanted)) if shared else float(words == wanted))
    return best


def interval(values: list[float]) -> str:
    """Mean, and the interval of the mean with 95 % confidence, by resampling the items; in per cent."""
    rng, array = np.random.default_rng(0), 100 * np.array(values)
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{array.mean():.1f} ({low:.1f} to {high:.1f})"


def of_items(
    scores: dict[str, Callable[[str, list[str]], float]], items: list[Item], systems: dict[str, list[str]]
) -> dict[str, dict[str, str]]:
    """Scores that are means over items."""
    return {
        system: {
            name: interval([score(text, item.answers) for text, item in zip(texts, items, strict=True)])
            for name, score in scores.items()
        }
        for system, texts in systems.items()
    }


def rouge_scores() -> dict[str, Callable[[str, list[str]], float]]:
    from rouge_score.rouge_scorer import RougeScorer

    names = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
    scorer = RougeScorer(list(names.values()), use_stemmer=True)
    return {
        name: lambda text, answers, key=key: scorer.score_multi(answers, text)[key].fmeasure
        for name, key in names.items()
    }


def corpus_scores(items: list[Item], systems: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """BLEU and chrF of sacrebleu, with the interval of its bootstrap."""
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    test = PairedTest(
        list(systems.items()),
        {"BLEU": BLEU(), "chrF": CHRF()},
        [[item.answers[0] for item in items]],
        test_type="bs",
        n_samples=RESAMPLES,
    )
    _, columns = test()
    metrics = [name for name in columns if name != "System"]
    return {
        system: {
            metric.split("2")[0]: f"{one.score:.1f} ({one.mean - one.ci:.1f} to {one.mean + one.ci:.1f})"
            for metric in metrics
            for one in [columns[metric][row]]
        }
        for row, system in enumerate(systems)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=tuple(TASKS), required=True, help="which scores are told")
    parser.add_argument("--instruction", help="the system turn; default: one for the task")
    parser.add_argument("--model", required=True, help="a directory of a model with a chat template")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tuned"))
    parser.add_argument("--lora-r", type=int, help="rank; default: all weights learn")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of matrix products"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--test-rows", type=int, default=200, help="spread over the file")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()

    instruction = options.instruction or TASKS[options.task]
    train(options, read(options.train), instruction)
    items = read(options.test)
    items = [
        items[row] for row in np.linspace(0, len(items) - 1, min(options.test_rows, len(items))).astype(int)
    ]
    prompts = write(
        options.out / "prompts.jsonl",
        [{"id": item.id, "messages": prompt_of(item, instruction)} for item in items],
    )
    before = predict(options, options.model, "predictions-before", prompts)
    after = predict(options, options.out / "run", "predictions", prompts)
    systems = {
        "copy": [item.source for item in items],
        "lead": [re.split(r"(?<=[.!?])\s|\n", item.source)[0] for item in items],
        "before": [before[item.id].strip() for item in items],
        "tuned": [after[item.id].strip() for item in items],
    }
    if options.task == "translate":
        told = corpus_scores(items, systems)
    elif options.task == "summarise":
        told = of_items(rouge_scores(), items, systems)
    else:
        told = of_items({"exact match": exact, "F1": overlap}, items, systems)
    print(f"{len(items):,} items of the test, {options.steps:,} steps; with 95 % confidence")
    for system, values in told.items():
        print(f"{system:7}" + "".join(f"  {name} {value}" for name, value in values.items()))
    print(f"the answers: {options.out / 'predictions'}")


if __name__ == "__main__":
    main()
