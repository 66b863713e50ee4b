"""What earlier steps wrote -> the next step's files, and a sentence on what it found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.demo.corpus import HELD_OUT, parts_of, read_texts, write_corpus
from headrace.demo.journal import Journal, write_json
from headrace.demo.naive import compare
from headrace.demo.prompts import choose_prompts
from headrace.demo.show import ProgressFunction, Stage
from headrace.errors import SourceError
from headrace.ingestion.read.sources import Source
from headrace.profile import machine, report
from headrace.profile.rivals import big, times
from headrace.profile.rundir import read_run
from headrace.profile.where import sentence

MAX_NEW_TOKENS = 64
SHOWN = 3
"""Predictions shown in the terminal; the report has more."""
IN_REPORT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What was asked for, and where the story stands."""

    out: Path
    sources: tuple[Source, ...]
    text_field: str
    seconds: float
    total_steps: int | None
    seed: int
    vocab_size: int
    model: str
    row_tokens: int | None
    batch_size: int | None
    prompts: int
    measure_s: float
    command: str
    journal: Journal
    stage: Stage

    def found(self, step: str) -> dict[str, Any]:
        """What a finished step found."""
        found = self.journal.done(step)
        assert found is not None, f"step {step} comes before"
        return found

    @property
    def seq_len(self) -> int:
        """Tokens of a row."""
        if self.row_tokens is not None:
            return self.row_tokens
        from headrace.model import gpt_config  # torch comes with it

        return gpt_config(self.model, vocab_size=self.vocab_size).max_position_embeddings

    @property
    def parts(self) -> list[Path]:
        """The corpus's files to train on."""
        return parts_of(self.out / "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the story."""

    name: str
    writes: tuple[str, ...]
    """Names in the output directory; the step is done again when one is gone."""
    run: Callable[[Story, ProgressFunction], Mapping[str, Any]]
    sentence: Callable[[Mapping[str, Any]], str]
    """What was found, in words."""
    show: Callable[[Story, Mapping[str, Any]], None] | None = None


def _corpus(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    corpus = write_corpus(story.sources, story.out / "corpus", text_field=story.text_field, progress=progress)
    return {**asdict(corpus), "sentence": corpus.sentence()}


def _tokenizer(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.tokens import load_tokenizer, train_tokenizer

    total = story.found("corpus")["text_bytes"]

    def texts() -> Iterator[str]:
        for path in story.parts:
            for _, text in read_texts(path):
                yield text

    path = train_tokenizer(
        texts(),
        vocab_size=story.vocab_size,
        out=story.out / "tokenizer.json",
        progress=lambda done, _, note: progress(min(done, total), total, note),
    )
    tokenizer = load_tokenizer(path)
    return {
        "vocab_size": tokenizer.vocab_size,
        "engine": tokenizer.engine,
        "fingerprint": tokenizer.fingerprint,
    }


def _ingest(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.ingestion import ingest

    tokenizer = str(story.out / "tokenizer.json")
    held_out = ingest(
        [str(story.out / "corpus" / HELD_OUT)], str(story.out / "held-out"), tokenizer=tokenizer, workers=1
    )
    summary = ingest(
        [str(p) for p in story.parts], str(story.out / "store"), tokenizer=tokenizer, progress=progress
    )
    if summary.tokens <= story.seq_len:
        raise SourceError(
            f"{story.found('corpus')['name']}: {summary.tokens:,} tokens are not one row of {story.seq_len} and "
            "its label; a demo needs more text, a few hundred kilobytes to be worth looking at."
        )
    return {
        "documents": summary.documents,
        "tokens": summary.tokens,
        "bytes_in": story.found("corpus")["text_bytes"],
        "wall_s": summary.wall_s,
        "held_out_tokens": held_out.tokens,
    }


def _inspect(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.store import Store

    with Store.open(str(story.out / "store")) as store:
        store.verify(progress=progress)
        return {
            "tokens": store.num_tokens,
            "documents": store.num_documents,
            "shards": store.num_shards,
            "nbytes": store.nbytes,
            "dtype": str(store.dtype),
            "codec": store.codec,
            "fingerprint": store.fingerprint,
            "rows": store.num_rows(story.seq_len),
        }


def _naive(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    return compare(
        files=story.parts,
        tokenizer=story.out / "tokenizer.json",
        store=story.out / "store",
        seq_len=story.seq_len,
        seconds=story.measure_s,
        once_s=story.found("ingest")["wall_s"],
        epoch_tokens=story.found("inspect")["tokens"],
        seed=story.seed,
        progress=progress,
    )


def _train(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.training import train

    enough = story.found("ingest")["held_out_tokens"] > story.seq_len
    summary = train(
        str(story.out / "store"),
        out=story.out / "run",
        model=story.model,
        seq_len=story.seq_len,
        batch_size=story.batch_size,
        steps=story.total_steps,
        max_seconds=story.seconds if story.total_steps is None else None,
        seed=story.seed,
        eval_stores=str(story.out / "held-out") if enough else None,
        eval_rows=32,
        # A kill loses at most so much of a two-minute run.
        checkpoint_seconds=15.0,
        keep=2,
        progress=progress,
    )
    if summary.stopped_by is not None:
        raise KeyboardInterrupt(summary.stopped_by)
    steps = read_run(story.out / "run").steps
    evals = [step.eval_loss for step in steps if step.eval_loss is not None]
    return {
        "steps": summary.steps,
        "tokens": summary.tokens,
        "parameters": summary.parameters,
        "first_loss": steps[0].loss,
        "last_loss": steps[-1].loss,
        "eval_loss": evals[-1] if evals else None,
        "train_s": sum(step.step_s for step in steps),
    }


def _generate(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    import pyarrow.compute as pc

    from headrace.generation import SamplingOptions, generate
    from headrace.sink import read_predictions
    from headrace.tokens import load_tokenizer

    tokenizer = load_tokenizer(story.out / "tokenizer.json")
    new_tokens = min(MAX_NEW_TOKENS, story.seq_len // 2)
    chosen = choose_prompts(
        read_texts(story.out / "corpus" / HELD_OUT),
        count=story.prompts,
        num_tokens=lambda text: len(tokenizer.encode(text)),
        limit=story.seq_len - new_tokens,
    )
    _write_lines(story.out / "prompts.jsonl", chosen)
    summary = generate(
        model=story.out / "run",
        prompts=story.out / "prompts.jsonl",
        out=story.out / "predictions",
        max_new_tokens=new_tokens,
        sampling=SamplingOptions(temperature=0.7, top_p=0.95, seed=story.seed),
        progress=progress,
    )
    table = read_predictions(story.out / "predictions", sort=True)
    every = max(1, table.num_rows // IN_REPORT)
    stages = {name: asdict(count) for name, count in summary.stages.items()}
    store_s = stages.get("sink", {}).get("busy_s", 0.0)
    return {
        "predictions": table.num_rows,
        "errors": summary.num_errors,
        "new_tokens": pc.sum(table["completion_tokens"]).as_py() or 0,
        "wall_s": summary.wall_s,
        "compute_s": max(0.0, summary.wall_s - store_s),
        "store_s": store_s,
        "tokens_per_s": summary.tokens_per_s,
        "samples": [
            {name: row[name] for name in ("prompt_id", "prompt", "text", "finish_reason")}
            for row in table.slice(0).take(list(range(0, table.num_rows, every))[:IN_REPORT]).to_pylist()
        ],
    }


def _report(story: Story, progress: ProgressFunction) -> Mapping[str, Any]:
    run = story.out / "run"
    corpus, train, inspect = story.found("corpus"), story.found("train"), story.found("inspect")
    predictions, vocabulary = story.found("generate"), story.found("tokenizer")["vocab_size"]
    known = machine()
    write_json(run / "ingest.json", story.found("ingest"))
    write_json(run / "naive.json", story.found("naive way"))
    write_json(
        run / "predictions.json",
        {
            **predictions,
            "what": f"{len(predictions['samples'])} of {predictions['predictions']}, evenly spaced and not "
            "picked: what the model wrote after beginnings from text that it was not trained on.",
        },
    )
    write_json(
        run / "about.json",
        {
            "title": f"A GPT of {big(train['parameters'])} parameters, trained on {corpus['name']}",
            "corpus": corpus["sentence"],
            "tokenizer": f"byte-level BPE, {vocabulary:,} ids, trained on this corpus",
            "store": f"{inspect['tokens']:,} tokens in {_count(inspect['shards'], 'shard')} of "
            f"{inspect['nbytes'] / 1e6:.1f} MB ({inspect['codec']})",
            "machine": known,
            "software": _software(known),
            "started": story.journal.started,
            "command": story.command,
        },
    )
    progress(1, 2, "page and plots")
    page = report(run)
    return {"report": os.fspath(page)}


def _software(known: Mapping[str, object]) -> str:
    from headrace import __version__

    return f"headrace {__version__}, Python {known['python']}, torch {known['torch']}, {known['system']}"


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    import orjson

    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    partial.replace(path)


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def _say_naive(found: Mapping[str, Any]) -> str:
    ratio = found["headrace"]["tokens_per_s"] / max(found["naive"]["tokens_per_s"], 1e-9)
    return f"headrace delivers tokens {times(ratio, 'faster', 'slower')}"


def _say_train(found: Mapping[str, Any]) -> str:
    text = (
        f"{big(found['parameters'])} parameters, {found['steps']:,} steps: "
        f"loss {found['first_loss']:.2f} → {found['last_loss']:.2f}"
    )
    return text if found["eval_loss"] is None else f"{text}, held-out {found['eval_loss']:.2f}"


def _show_samples(story: Story, found: Mapping[str, Any]) -> None:
    story.stage.samples(found["samples"][:SHOWN])


def _show_sentence(story: Story, found: Mapping[str, Any]) -> None:
    from headrace.profile.charts import stage_times

    story.stage.say(f"      {sentence(stage_times(read_run(Path(found['report']).parent)))}")


STEPS: tuple[Step, ...] = (
    Step(name="corpus", writes=("corpus",), run=_corpus, sentence=lambda f: f["sentence"]),
    Step(
        name="tokenizer",
        writes=("tokenizer.json",),
        run=_tokenizer,
        sentence=lambda f: f"byte-level BPE, {f['vocab_size']:,} ids ({f['engine']})",
    ),
    Step(
        name="ingest",
        writes=("store", "held-out"),
        run=_ingest,
        sentence=lambda f: f"{f['tokens']:,} tokens, {f['bytes_in'] / max(1, f['tokens']):.2f} bytes each",
    ),
    Step(
        name="inspect",
        writes=(),
        run=_inspect,
        sentence=lambda f: (
            f"every checksum right: {_count(f['documents'], 'document')}, {_count(f['shards'], 'shard')}, "
            f"{f['nbytes'] / 1e6:.1f} MB ({f['codec']})"
        ),
    ),
    Step(
        name="naive way",
        writes=(),
        run=_naive,
        sentence=_say_naive,
        show=lambda story, found: story.stage.rivals(found),
    ),
    Step(name="train", writes=("run",), run=_train, sentence=_say_train),
    Step(
        name="generate",
        writes=("prompts.jsonl", "predictions"),
        run=_generate,
        sentence=lambda f: f"{f['predictions']} predictions, {f['new_tokens']:,} tokens, each stored once",
        show=_show_samples,
    ),
    Step(
        name="report",
        writes=("run/report.html", "run/plots"),
        run=_report,
        sentence=lambda f: f["report"],
        show=_show_sentence,
    ),
)
