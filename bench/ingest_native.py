"""Ingest with and without the extension in C: every tokenizer engine, both ways in one run.

Claim     No engine is slower with the extension than without it (ratio of CPU seconds <= 1.05), and byte ingest of
          JSON lines is faster (<= 0.9). The stores are the same bytes.
Run       python bench/ingest_native.py --docs DIR --tokenizer tokenizer.json
Compares  The same .jsonl (not compressed) of whole documents, and of their paragraphs (short texts), with one worker in
          this process: byte, gigatoken and tokenizers (GPT-2), tiktoken (gpt2's ranks, from the same files) and
          sentencepiece (a BPE model trained here). Both ways take turns in random order. Slow engines take less text.
Ceiling   None: ours is compared with ours.
Reports   CPU seconds of the job on one core: the fastest of n for each way, since other processes only add to them, and
          the ratio of the two; beside it the spread of the n ratios of neighbours.
Cause     {cause}
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import headrace
from corpora import add_corpus_options, files_of
from headrace.native import available_targets, use_target
from headrace.tokens import load_tokenizer
from measure import DATA, at_most, number, options, pin, report, say, spread, summary, table

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

CAUSE = """The parser in C writes all texts of a block into one buffer. The byte tokenizer and gigatoken take the buffer
          whole; the other engines need an object a text, which one split of the buffer makes."""
MEGABYTES = {"byte": 48, "gigatoken": 48, "tokenizers": 2, "tiktoken": 3, "sentencepiece": 2}


def write_lines(files: list[Path], folder: Path, *, nbytes: int, paragraphs: bool) -> Path:
    """A .jsonl of about so much text: whole documents, or their paragraphs."""
    path = folder / f"{'paragraphs' if paragraphs else 'documents'}-{nbytes >> 20}.jsonl"
    if path.exists():
        return path
    size = 0
    with path.open("wb") as out:
        while size < nbytes:
            for file in files:
                with gzip.open(file, "rb") as lines:
                    for line in lines:
                        text = json.loads(line)["text"]
                        for part in text.split("\n\n") if paragraphs else [text]:
                            if part and size < nbytes:
                                size += out.write(json.dumps({"id": size, "text": part}).encode() + b"\n")
    return path


def engines(tokenizer: str, sample: Path, folder: Path) -> dict[str, Tokenizer]:
    """A tokenizer for each engine."""
    import sentencepiece

    model = folder / "bpe.model"
    if not model.exists():
        texts = [json.loads(line)["text"][:4000] for line in sample.open("rb")][:500]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(model.with_suffix("")), vocab_size=2000,
            model_type="bpe", byte_fallback=True, minloglevel=2,
        )  # fmt: skip
    fast = load_tokenizer(tokenizer, engine="fast")
    found = {
        "byte": load_tokenizer("byte"),
        "gigatoken": fast,
        "tokenizers": fast.as_reference(),
        "tiktoken": load_tokenizer("gpt2").as_reference(),
        "sentencepiece": load_tokenizer(model).as_reference(),
    }
    assert {name: one.engine for name, one in found.items()} == {name: name for name in found}
    return found


def measured(source: Path, tokenizer: Tokenizer, out: Path, target: Any) -> float:
    """CPU seconds of one job."""
    shutil.rmtree(out, ignore_errors=True)
    with use_target(target):
        start = time.process_time()
        headrace.ingest(source, out, tokenizer=tokenizer, workers=1)
        return time.process_time() - start


def same_shards(one: Path, other: Path) -> bool:
    """Whether two stores have the same shards, byte for byte."""
    shards = [
        sorted(p.relative_to(store) for p in (store / "shards").rglob("*") if p.is_file())
        for store in (one, other)
    ]
    return shards[0] == shards[1] and all(
        (one / p).read_bytes() == (other / p).read_bytes() for p in shards[0]
    )


def main() -> None:
    parser = options(__doc__, repeats=7)
    add_corpus_options(parser)
    parser.add_argument("--docs", nargs="*", default=[], help="as --corpus")
    chosen = parser.parse_args()
    files = files_of(chosen.docs or chosen.corpus)
    if not files or not chosen.tokenizer:
        say("ingest_native: not measured: give --docs and --tokenizer")
        return
    pin()
    folder = DATA / "ingest-native"
    folder.mkdir(parents=True, exist_ok=True)
    best = available_targets()[-1]
    sample = write_lines(files, folder, nbytes=3 << 20, paragraphs=False)
    ways = {"on": best, "off": "off"}
    data: dict[str, Any] = {"target": best}
    rows, goals = [], []
    for name, tokenizer in engines(chosen.tokenizer, sample, folder).items():
        for paragraphs in (False, True):
            nbytes = (1 if chosen.quick else MEGABYTES[name]) << 20
            source = write_lines(files, folder, nbytes=nbytes, paragraphs=paragraphs)
            outs = {way: folder / f"store-{way}" for way in ways}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(-1, 2 if chosen.quick else chosen.repeats):
                for way in random.sample(sorted(ways), 2):
                    took = measured(source, tokenizer, outs[way], ways[way])
                    if turn >= 0:  # the first turn warms up
                        seconds[way].append(took)
            assert same_shards(outs["on"], outs["off"])
            ratios = [on / off for on, off in zip(seconds["on"], seconds["off"], strict=True)]
            label = f"{name}, {'paragraphs' if paragraphs else 'documents'}"
            fastest = {way: min(values) for way, values in seconds.items()}
            ratio = fastest["on"] / fastest["off"]
            rows.append(
                [
                    label,
                    str(nbytes >> 20),
                    *(number(fastest[way]) for way in ("off", "on")),
                    number(ratio),
                    spread(ratios),
                ]
            )
            say(f"  {label}: {ratio:.3f} ({spread(ratios)})")
            data[label] = {way: summary(values) for way, values in seconds.items()} | {
                "ratio": ratio,
                "ratios": summary(ratios),
            }
            goals.append(at_most(f"{label}: with / without", ratio, 0.9 if name == "byte" else 1.05))
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"CPU seconds of a job, with ({best}) and without the extension": table(
                ["engine, texts", "MB", "without", "with", "ratio", "spread"], rows
            )
        },
        goals=goals,
        data=data,
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
