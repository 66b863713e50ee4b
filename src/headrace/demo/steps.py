"""The files of earlier steps -> the next step's files, its result, and a sentence about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.demo.corpus import HELD_OUT, read_corpus_file, training_parts, write_corpus
from headrace.demo.display import DemoDisplay, ProgressFunction
from headrace.demo.loader_comparison import compare_loaders
from headrace.demo.options import DemoOptions
from headrace.demo.prompts import choose_prompts
from headrace.demo.state import DemoState, write_json
from headrace.errors import SourceError
from headrace.formatting import approximate, count, nbytes, ratio
from headrace.ingestion import SourceFile
from headrace.profile import describe_machine, describe_stages, read_run_files, report, run_stage_times

MAX_NEW_TOKENS = 64
SHOWN = 3
"""Predictions shown in the terminal; the report has more."""
IN_REPORT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoContext:
    """Everything that the steps work with."""

    out: Path
    sources: tuple[SourceFile, ...]
    options: DemoOptions
    command: str
    state: DemoState
    display: DemoDisplay

    def result(self, step: str) -> dict[str, Any]:
        """The result of an earlier step."""
        result = self.state.result(step)
        assert result is not None, f"step {step} comes before"
        return result

    @property
    def seq_len(self) -> int:
        """Tokens of a row."""
        if self.options.seq_len is not None:
            return self.options.seq_len
        from headrace.model import gpt_config  # torch comes with it

        return gpt_config(self.options.model, vocab_size=self.options.vocab_size).max_position_embeddings

    @property
    def parts(self) -> list[Path]:
        """The files of the corpus to train on."""
        return training_parts(self.out / "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStep:
    """One step of the demo."""

    name: str
    writes: tuple[str, ...]
    """Names in the output directory; the step is done again when one is missing."""
    run: Callable[[DemoContext, ProgressFunction], Mapping[str, Any]]
    sentence: Callable[[Mapping[str, Any]], str]
    """The result in words."""
    show: Callable[[DemoContext, Mapping[str, Any]], None] | None = None


def _corpus(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    corpus = write_corpus(
        context.sources, context.out / "corpus", text_field=context.options.text_field, progress=progress
    )
    return {**asdict(corpus), "sentence": corpus.sentence()}


def _tokenizer(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.tokens import load_tokenizer, train_tokenizer

    total = context.result("corpus")["text_bytes"]

    def texts() -> Iterator[str]:
        for path in context.parts:
            for _, text in read_corpus_file(path):
                yield text

    path = train_tokenizer(
        texts(),
        vocab_size=context.options.vocab_size,
        out=context.out / "tokenizer.json",
        progress=lambda done, _, note: progress(min(done, total), total, note),
    )
    tokenizer = load_tokenizer(path)
    return {
        "vocab_size": tokenizer.vocab_size,
        "engine": tokenizer.engine,
        "fingerprint": tokenizer.fingerprint,
    }


def _ingest(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.ingestion import ingest

    tokenizer = str(context.out / "tokenizer.json")
    held_out = ingest(
        [str(context.out / "corpus" / HELD_OUT)],
        str(context.out / "held-out"),
        tokenizer=tokenizer,
        workers=1,
    )
    summary = ingest(
        [str(p) for p in context.parts], str(context.out / "store"), tokenizer=tokenizer, progress=progress
    )
    if summary.tokens <= context.seq_len:
        raise SourceError(
            f"{context.result('corpus')['name']}: {summary.tokens:,} tokens are not one row of {context.seq_len} and "
            "its label; a demo needs more text, a few hundred kilobytes to be worth looking at."
        )
    return {
        "documents": summary.documents,
        "tokens": summary.tokens,
        "bytes_in": context.result("corpus")["text_bytes"],
        "wall_s": summary.wall_s,
        "held_out_tokens": held_out.tokens,
    }


def _inspect(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.store import Store, verify_store

    with Store.open(str(context.out / "store")) as store:
        verify_store(store, progress=progress)
        return {
            "tokens": store.num_tokens,
            "documents": store.num_documents,
            "shards": store.num_shards,
            "nbytes": store.nbytes,
            "dtype": str(store.dtype),
            "codec": store.codec,
            "fingerprint": store.fingerprint,
            "rows": store.num_rows(context.seq_len),
        }


def _compare_loaders(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    return compare_loaders(
        files=context.parts,
        tokenizer=context.out / "tokenizer.json",
        store=context.out / "store",
        seq_len=context.seq_len,
        seconds=context.options.measure_s,
        once_s=context.result("ingest")["wall_s"],
        epoch_tokens=context.result("inspect")["tokens"],
        seed=context.options.seed,
        progress=progress,
    )


def _train(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    from headrace.training import CheckpointOptions, DataOptions, EvaluationOptions, RunOptions, train

    enough = context.result("ingest")["held_out_tokens"] > context.seq_len
    summary = train(
        str(context.out / "store"),
        out=context.out / "run",
        model=context.options.model,
        steps=context.options.steps,
        data=DataOptions(seq_len=context.seq_len, batch_size=context.options.batch_size),
        evaluation=EvaluationOptions(
            eval_stores=str(context.out / "held-out") if enough else None, eval_rows=32
        ),
        # A kill loses at most 15 seconds of a two-minute run.
        checkpoint=CheckpointOptions(checkpoint_seconds=15.0, keep_checkpoints=2),
        run=RunOptions(
            max_seconds=context.options.seconds if context.options.steps is None else None,
            seed=context.options.seed,
        ),
        progress=progress,
    )
    if summary.stopped_by is not None:
        raise KeyboardInterrupt(summary.stopped_by)
    steps = read_run_files(context.out / "run").steps
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


def _generate(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    import pyarrow.compute as pc

    from headrace.generation import SamplingOptions, generate
    from headrace.sink import read_predictions
    from headrace.tokens import load_tokenizer

    tokenizer = load_tokenizer(context.out / "tokenizer.json")
    new_tokens = min(MAX_NEW_TOKENS, context.seq_len // 2)
    chosen = choose_prompts(
        read_corpus_file(context.out / "corpus" / HELD_OUT),
        count=context.options.prompts,
        num_tokens=lambda text: len(tokenizer.encode(text)),
        limit=context.seq_len - new_tokens,
    )
    _write_lines(context.out / "prompts.jsonl", chosen)
    summary = generate(
        model=context.out / "run",
        prompts=context.out / "prompts.jsonl",
        out=context.out / "predictions",
        max_new_tokens=new_tokens,
        sampling=SamplingOptions(temperature=0.7, top_p=0.95, seed=context.options.seed),
        progress=progress,
    )
    table = read_predictions(context.out / "predictions", sort=True)
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


def _report(context: DemoContext, progress: ProgressFunction) -> Mapping[str, Any]:
    run = context.out / "run"
    corpus, train, inspect = context.result("corpus"), context.result("train"), context.result("inspect")
    predictions, vocabulary = context.result("generate"), context.result("tokenizer")["vocab_size"]
    machine = describe_machine()
    write_json(run / "ingest.json", context.result("ingest"))
    write_json(run / "naive.json", context.result("comparison"))
    write_json(
        run / "predictions.json",
        {
            **predictions,
            "what": f"{len(predictions['samples'])} of {predictions['predictions']}, evenly spaced: what the "
            "model wrote after beginnings of text that it was not trained on.",
        },
    )
    write_json(
        run / "about.json",
        {
            "title": f"A GPT of {approximate(train['parameters'])} parameters, trained on {corpus['name']}",
            "corpus": corpus["sentence"],
            "tokenizer": f"byte-level BPE, {vocabulary:,} ids, trained on this corpus",
            "store": f"{inspect['tokens']:,} tokens in {_plural(inspect['shards'], 'shard')} of "
            f"{nbytes(inspect['nbytes'])} ({inspect['codec']})",
            "machine": machine,
            "software": _software(machine),
            "started": context.state.started,
            "command": context.command,
        },
    )
    progress(1, 2, "page and plots")
    page = Path(report(run))
    return {"report": os.fspath(page)}


def _software(machine: Mapping[str, object]) -> str:
    from headrace.version import VERSION

    return f"headrace {VERSION}, Python {machine['python']}, torch {machine['torch']}, {machine['system']}"


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    import orjson

    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    partial.replace(path)


def _plural(number: int, name: str) -> str:
    return f"{count(number)} {name}" if number == 1 else f"{count(number)} {name}s"


def _describe_comparison(result: Mapping[str, Any]) -> str:
    gain = result["headrace"]["tokens_per_s"] / max(result["naive"]["tokens_per_s"], 1e-9)
    return f"headrace delivers tokens {ratio(gain, 'faster', 'slower')} than the naive loader"


def _describe_training(result: Mapping[str, Any]) -> str:
    text = (
        f"{approximate(result['parameters'])} parameters, {count(result['steps'])} steps: "
        f"loss {result['first_loss']:.2f} → {result['last_loss']:.2f}"
    )
    return text if result["eval_loss"] is None else f"{text}, held-out {result['eval_loss']:.2f}"


def _show_samples(context: DemoContext, result: Mapping[str, Any]) -> None:
    context.display.samples(result["samples"][:SHOWN])


def _show_stages(context: DemoContext, result: Mapping[str, Any]) -> None:
    stages = run_stage_times(read_run_files(Path(result["report"]).parent))
    context.display.print(f"      {describe_stages(stages)}")


STEPS: tuple[DemoStep, ...] = (
    DemoStep(name="corpus", writes=("corpus",), run=_corpus, sentence=lambda f: f["sentence"]),
    DemoStep(
        name="tokenizer",
        writes=("tokenizer.json",),
        run=_tokenizer,
        sentence=lambda f: f"byte-level BPE, {f['vocab_size']:,} ids ({f['engine']})",
    ),
    DemoStep(
        name="ingest",
        writes=("store", "held-out"),
        run=_ingest,
        sentence=lambda f: f"{f['tokens']:,} tokens, {f['bytes_in'] / max(1, f['tokens']):.2f} bytes each",
    ),
    DemoStep(
        name="inspect",
        writes=(),
        run=_inspect,
        sentence=lambda f: (
            f"every checksum right: {_plural(f['documents'], 'document')}, {_plural(f['shards'], 'shard')}, "
            f"{nbytes(f['nbytes'])} ({f['codec']})"
        ),
    ),
    DemoStep(
        name="comparison",
        writes=(),
        run=_compare_loaders,
        sentence=_describe_comparison,
        show=lambda context, result: context.display.comparison(result),
    ),
    DemoStep(name="train", writes=("run",), run=_train, sentence=_describe_training),
    DemoStep(
        name="generate",
        writes=("prompts.jsonl", "predictions"),
        run=_generate,
        sentence=lambda f: f"{f['predictions']} predictions, {f['new_tokens']:,} tokens, each stored once",
        show=_show_samples,
    ),
    DemoStep(
        name="report",
        writes=("run/report.html", "run/plots"),
        run=_report,
        sentence=lambda f: f["report"],
        show=_show_stages,
    ),
)
